"""Validation of a bundle: every check on the machine that exports, as one record."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from converters.analysis.received import pinned_defaults
from converters.thresholds import as_exported
from converters.verification import Findings, Frame, Subject, checks_of, reference_frames
from converters.verification.polygraphy_files import polygraphy_commands, write_polygraphy_files
from engines.backends.onnxruntime.cpu import ONNXRUNTIME_CPU
from engines.backends.versions import tool_versions
from engines.bundle.bundle import Bundle
from engines.bundle.records import (
    ARRAYS,
    OVERLAY_ARRAYS,
    VALIDATION,
    Check,
    Validation,
    json_from_record,
)
from engines.errors import FrameError, MissingDependency
from engines.parity.tolerances import tolerance_of
from engines.parity.validation import OnCheck, validation_from_checks
from engines.schedules.schedule import Precision


def validate(
    bundle: Bundle | str | Path,
    *,
    network: nn.Module | None = None,
    frames: Sequence[Frame | NDArray[np.uint8]] = (),
    tolerances: Mapping[str, float] | None = None,
    quick: bool = False,
    on_check: OnCheck = lambda check: None,
    command: str = "",
    keep: bool = True,
) -> Validation:
    """Prove numeric parity of a bundle: PyTorch against its graphs in ONNX Runtime, hop by hop, and its engines.

    PyTorch's outputs for the reference frames are in the bundle. Labels are judged on ``frames``, else on the reference
    frames.

    Args:
        bundle: an open bundle, or the path of one, whose files are then verified.
        network: the network that the bundle was exported from: PyTorch is run anew, on every frame, and names the layer
            of a fault. It is left as it is, in whatever mode and on whatever device.
        frames: further ones, ``(H, W, 3)`` uint8 RGB of the bundle's size, or :class:`Frame` with their names and with
            labels that people gave.
        tolerances: figures of :class:`engines.bundle.records.Tolerance` by name, in place of the table's in every
            precision.
        quick: leave out the proofs on generated frames, every phase and sub-batch of every trunk among them; the record
            lists that as not run.
        on_check: called with every check as soon as it is made.
        command: how a person makes this record again, to be written into it.
        keep: write the record, its pictures' arrays and Polygraphy's files into the bundle's ``reports/``.

    Raises:
        BundleError: the bundle is absent or damaged.
        FrameError: a frame of another size or type.
        InputError: an unknown tolerance.
        NetworkError: the network is not float32, or cannot be copied or traced.
        MachineError: ONNX Runtime is not there. What it breaks at is a check that failed, and the others go on.
        MissingDependency: Polygraphy is not installed, with ``keep``.
        OutputError: the bundle's ``reports/`` cannot be written, with ``keep``.
    """
    started = time.monotonic()
    opened = Bundle.of(bundle)
    # What is missing or wrong is said before the work, not after it.
    tolerance_of(Precision.FP32, tolerances)
    ONNXRUNTIME_CPU.runtime()
    if keep:
        _check_polygraphy()
        opened.check_reports()
    given = [_frame(opened, index, frame) for index, frame in enumerate(frames)]
    subject = Subject(
        opened,
        [*reference_frames(opened), *given],
        tolerances or {},
        as_exported(opened, network),
        quick=quick,
        # Other phases every day, where not all are taken.
        rotation=int(time.time()) // 86400,
    )
    checks: list[Check] = []
    with pinned_defaults():
        findings = _made(subject, checks, on_check)
    validation = validation_from_checks(
        opened,
        checks,
        seconds=time.monotonic() - started,
        overrides=tolerances or {},
        frames=[frame.name for frame in subject.frames],
        tools=tool_versions(),
        commands=[*([command] if command else []), *(polygraphy_commands(opened) if keep else [])],
        figures=findings.figures([record.name for record in opened.manifest.classes]),
    )
    if keep:
        _keep(opened, validation, findings)
    return validation


def _made(subject: Subject, checks: list[Check], on_check: OnCheck) -> Findings:
    """Make the checks, one by one into ``checks``."""
    making = checks_of(subject)
    while True:
        try:
            check = next(making)
        except StopIteration as end:
            findings: Findings = end.value
            return findings
        on_check(check)
        checks.append(check)


def _frame(bundle: Bundle, index: int, given: Frame | NDArray[np.uint8]) -> Frame:
    frame = given if isinstance(given, Frame) else Frame(f"frame {index}", given)
    wanted = (*bundle.manifest.input.size, 3)
    image = frame.image
    if image.shape != wanted or image.dtype != np.uint8:
        raise FrameError(f"{frame.name} is {image.dtype} of {image.shape}; the bundle takes uint8 of {wanted}")
    return frame


def _check_polygraphy() -> None:
    try:
        import polygraphy  # noqa: F401
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error


def _keep(bundle: Bundle, validation: Validation, findings: Findings) -> None:
    """What the record speaks of first, then the record."""
    arrays = {
        f"{kind}-{index}": getattr(labels, kind)
        for index, labels in enumerate(findings.overlays)
        for kind in OVERLAY_ARRAYS
    }
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    bundle.write_report(ARRAYS, stream.getvalue())
    write_polygraphy_files(findings, bundle)
    bundle.write_report(VALIDATION, json_from_record(validation))
