"""The arguments of :func:`converters.export`, checked in one place before the minutes of work."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from converters.graphs.from_torch import DEFAULT_OPSET, OPSETS
from converters.graphs.precision import check_opset
from converters.graphs.quantization import CalibrationConfig, CalibrationMethod
from converters.graphs.stages import Normalization
from converters.normalization import normalization_of
from converters.palettes import classes_from_names
from converters.thresholds import checked_threshold
from engines.bundle.manifest import ClassRecord, OutputKind
from engines.errors import InputError
from engines.schedules.phases import Size
from engines.schedules.schedule import Lowering, Precision, named

_Choice = TypeVar("_Choice", bound=enum.Enum)


@dataclass(frozen=True)
class ExportRequest:
    """What to export, apart from the network."""

    size: Size
    outputs: OutputKind
    threshold: float | None
    """Of a network of one logit a pixel: the probability above which a label is 1."""
    opset: int
    normalization: Normalization
    precisions: tuple[Precision, ...]
    keep_fp32: Mapping[Precision, tuple[str, ...]]
    """Patterns of modules, by the precision of the trunks."""
    calibration: CalibrationConfig | None
    """For int8, and only then."""
    levels: tuple[int, ...] | None
    lowerings: tuple[Lowering, ...] | None
    classes: tuple[ClassRecord, ...] | None
    reference_frames: tuple[NDArray[np.uint8], ...] = field(compare=False)
    product: str | None = None
    """What the bundle is a version of; ``None`` for the network's source."""
    version: int = 0


def export_request(
    *,
    size: Sequence[int],
    outputs: OutputKind | str = OutputKind.LABELS,
    threshold: float | None = None,
    precisions: Iterable[Precision | str] | Precision | str = (),
    keep_fp32: Mapping[Precision | str, Iterable[str]] | Iterable[str] | None = None,
    calibration_frames: Sequence[NDArray[np.uint8]] = (),
    calibration: CalibrationMethod | str | None = None,
    calibration_percentile: float | None = None,
    levels: Iterable[int] | int | None = None,
    lowerings: Iterable[Lowering | str] | Lowering | str | None = None,
    classes: Sequence[ClassRecord | str] | None = None,
    mean: Sequence[float] = Normalization.mean,
    std: Sequence[float] = Normalization.std,
    opset: int = DEFAULT_OPSET,
    reference_frames: Sequence[NDArray[np.uint8]] = (),
    product: str | None = None,
    version: int = 0,
) -> ExportRequest:
    """Check the arguments of an export, which :func:`converters.export` describes.

    Raises :class:`InputError` in terms of the argument that is wrong.
    """
    frame_size = checked_size(size)
    wanted = _choices(Precision, "precisions", precisions)
    for precision in wanted:
        if precision.graph is not precision:
            raise InputError(
                f"precisions= names graphs to write, and {precision.value} is computed from the "
                f"{precision.graph.value} graph, which every bundle has"
            )
    _check_opset(opset, wanted)
    gives = named(OutputKind, "outputs", outputs)
    return ExportRequest(
        size=frame_size,
        outputs=gives,
        threshold=None if threshold is None else _threshold(threshold, gives),
        opset=opset,
        normalization=normalization_of(mean, std),
        precisions=wanted,
        keep_fp32=_kept(keep_fp32, wanted),
        calibration=_calibration(
            _frames("calibration_frames", calibration_frames, frame_size), calibration, calibration_percentile, wanted
        ),
        levels=None if levels is None else _levels(levels),
        lowerings=None if lowerings is None else _choices(Lowering, "lowerings", lowerings) or None,
        classes=None if classes is None else _classes(classes),
        reference_frames=_frames("reference_frames", reference_frames, frame_size),
        product=product,
        version=_version(version),
    )


def checked_size(size: Sequence[int]) -> Size:
    """A size of frames. Raises :class:`InputError` for what is none."""
    try:
        height, width = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise InputError(f"size= is (height, width) of a frame in pixels, two numbers from 1; received {size!r}")
    return height, width


def _choices(
    kind: type[_Choice], argument: str, values: Iterable[_Choice | str] | _Choice | str
) -> tuple[_Choice, ...]:
    given = (values,) if isinstance(values, (str, enum.Enum)) else tuple(values)
    return tuple(dict.fromkeys(named(kind, argument, value) for value in given))


def _threshold(threshold: float, outputs: OutputKind) -> float:
    if outputs is not OutputKind.LABELS:
        raise InputError(f'threshold= decides labels, and outputs="{outputs.value}" gives none')
    return checked_threshold(threshold)


def _version(version: int) -> int:
    if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < 2**53:
        raise InputError(f"version= counts up from 0; received {version!r}")
    return version


def _check_opset(opset: int, precisions: tuple[Precision, ...]) -> None:
    if opset not in OPSETS:
        raise InputError(f"opset= is a number from {OPSETS.start} to {OPSETS.stop - 1}; received {opset!r}")
    for precision in precisions:
        check_opset(precision, opset)


def _kept(
    patterns: Mapping[Precision | str, Iterable[str]] | Iterable[str] | None, precisions: tuple[Precision, ...]
) -> dict[Precision, tuple[str, ...]]:
    """The patterns of each precision's trunks: a mapping says which, patterns alone are for all but fp32."""
    if patterns is None:
        return {}
    reduced = [precision for precision in precisions if precision is not Precision.FP32]
    if isinstance(patterns, Mapping):
        by_precision = {
            named(Precision, "keep_fp32", precision): _patterns(held) for precision, held in patterns.items()
        }
        for precision in by_precision:
            if precision not in reduced:
                held = ", ".join(map(repr, by_precision[precision]))
                raise InputError(
                    f"keep_fp32= names {held} for {precision.value} trunks, and precisions= has no {precision.value}"
                )
        return by_precision
    wanted = _patterns(patterns)
    if wanted and not reduced:
        raise InputError("keep_fp32= is for the trunks of other precisions than fp32, and precisions= has none")
    return dict.fromkeys(reduced, wanted)


def _patterns(patterns: Iterable[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _calibration(
    frames: tuple[NDArray[np.uint8], ...],
    method: CalibrationMethod | str | None,
    percentile: float | None,
    precisions: tuple[Precision, ...],
) -> CalibrationConfig | None:
    """``None`` without int8, where every one of these arguments would mean nothing."""
    if Precision.INT8 not in precisions:
        given = {"calibration_frames": frames or None, "calibration": method, "calibration_percentile": percentile}
        for argument, value in given.items():
            if value is not None:
                raise InputError(f'{argument}= is for precisions=("int8",)')
        return None
    if not frames:
        raise InputError('precisions=("int8",) needs calibration_frames=, frames such as the network is meant for')
    chosen = CalibrationConfig.method if method is None else named(CalibrationMethod, "calibration", method)
    if percentile is None:
        percentile = CalibrationConfig.percentile
    elif chosen is not CalibrationMethod.PERCENTILE:
        raise InputError(f'calibration_percentile= is for calibration="percentile"; received {chosen.value!r}')
    if not 0 < percentile <= 100:
        raise InputError(f"calibration_percentile= is above 0 and at most 100; received {percentile!r}")
    for index, frame in enumerate(frames):
        if frame.min() == frame.max():
            raise InputError(
                f"frame {index} of calibration_frames= has one value throughout, {frame.min()}: it says nothing of the "
                "activations on real frames"
            )
    return CalibrationConfig(frames, chosen, percentile)


def _levels(levels: Iterable[int] | int) -> tuple[int, ...] | None:
    try:
        wanted = tuple(operator.index(level) for level in ((levels,) if isinstance(levels, int) else levels))
    except TypeError:
        wanted = (-1,)
    if min(wanted, default=0) < 0:
        raise InputError(f"levels= are numbers of splits that the loop walks, from 0; received {levels!r}")
    return wanted or None


def _classes(classes: Sequence[ClassRecord | str]) -> tuple[ClassRecord, ...]:
    if isinstance(classes, str) or not all(isinstance(held, (ClassRecord, str)) for held in classes):
        raise InputError(f"classes= are names, or records of a name and a colour, one a channel; received {classes!r}")
    made_up = classes_from_names([held if isinstance(held, str) else held.name for held in classes])
    return tuple(made if isinstance(held, str) else held for held, made in zip(classes, made_up, strict=True))


def _frames(argument: str, frames: Sequence[Any], size: Size) -> tuple[NDArray[np.uint8], ...]:
    """Frames ``(H, W, 3)`` uint8 of the bundle's size; one that is not is named by its place."""
    arrays = tuple(np.asarray(frame) for frame in frames)
    for index, array in enumerate(arrays):
        if array.shape != (*size, 3) or array.dtype != np.uint8:
            raise InputError(
                f"frame {index} of {argument}= is {array.dtype} of shape {array.shape}; it must be uint8 of shape "
                f"{(*size, 3)}"
            )
    return arrays
