"""From a PyTorch network to a bundle."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from converters.analysis.levels import levels_from_graph, size_multiple_of, total_window
from converters.analysis.tracing import graph_from_network
from converters.graphs.from_torch import DEFAULT_OPSET, onnx_from_torch
from converters.graphs.precision import check_opset
from converters.graphs.quantization import CalibrationConfig, CalibrationMethod, ranges_from_frames
from converters.graphs.quantization.ranges import check_frames
from converters.graphs.stages import Normalization, Prepare, WholeNetwork
from converters.palettes import default_classes
from converters.pooling import Window
from converters.readme import README_NAME, readme_from_manifest
from converters.reference import noise_frame, outer_splits, phase_logits, reference_levels, reference_phase
from converters.rewriting.batchnorm import fold_batch_norms
from converters.rewriting.loops import most_levels
from converters.trunks import PlannedTrunk, PrecisionPlan, TrunkChoice, kept_modules, planned_trunks, write_trunks
from engines.bundle.bundle import Bundle, record_of_file
from engines.bundle.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    CalibrationRecord,
    ClassRecord,
    InputRecord,
    Manifest,
    NetworkRecord,
    OutputKind,
    Precision,
    ReferenceRecord,
    TrunkRecord,
    json_from_manifest,
)
from engines.bundle.staging import staged_directory
from engines.errors import InputError, MissingDependency, NetworkError
from engines.schedules.phases import PhaseGrid, Size, padded_size

if TYPE_CHECKING:
    from converters.graphs.weights import SharedWeights

_MAX_LABELS = 256
_WEIGHTS = "weights.bin"


@dataclass(frozen=True)
class ExportConfig:
    """What to export, apart from the network."""

    size: Size
    """Frames of ``(height, width)``; padded inside where the network needs a multiple."""
    source: str
    """``--arch`` name, or ``package.module:factory``; for the manifest."""
    outputs: OutputKind = OutputKind.LABELS
    opset: int = DEFAULT_OPSET
    normalization: Normalization = field(default_factory=Normalization)
    precisions: tuple[Precision, ...] = (Precision.FP16,)
    """Trunks to write beside the fp32 ones, which every check needs."""
    keep_fp32: Mapping[Precision, tuple[str, ...]] = field(default_factory=dict)
    """By precision: patterns of modules that stay in fp32 in its trunks, ``layer4.*`` for example."""
    calibration: CalibrationConfig | None = None
    """For int8."""
    trunks: TrunkChoice = field(default_factory=TrunkChoice)
    """Levels and lowerings of the trunks."""
    classes: tuple[ClassRecord, ...] = ()
    """Names and colours; by default those of :func:`converters.palettes.default_classes`."""
    width: int | None = None
    """Channels of the stem, for the manifest."""
    checkpoint_sha256: str | None = None
    reference_frames: tuple[NDArray[np.uint8], ...] = field(default=(), compare=False)
    """Frames ``(H, W, 3)`` uint8 for the reference cases; one of noise by default."""


@dataclass(frozen=True)
class _Plan:
    """What the graphs of a bundle are made from."""

    network: nn.Module
    graph: fx.GraphModule
    windows: list[Window]
    trunks: list[PlannedTrunk]
    kept: Mapping[Precision, frozenset[str]]
    frame: InputRecord
    classes: tuple[ClassRecord, ...]


Step = Callable[[str], None]
"""Called with what is being done."""


def export_bundle(
    network: nn.Module,
    config: ExportConfig,
    target: Path,
    *,
    replace: bool = False,
    on_step: Step = lambda message: None,
) -> Bundle:
    """Write the bundle of ``network`` at ``target``: whole, or not at all.

    The network maps ``(n, 3, H, W)`` float32 to logits ``(n, classes, H, W)``, is built from pooling layers and
    ordinary layers, and is left unchanged.

    Raises:
        NetworkError: the network cannot be traced, exported, or cut into phases at this size.
        OutputError: ``target`` exists and ``replace`` is false, or cannot be written.
        MissingDependency: a package of the ``export`` extra is missing.
    """
    _check_precisions(config)
    try:
        # The package imports onnx_ir, which imports onnx: one place tells that they are missing.
        from converters.graphs.weights import SharedWeights
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    with _evaluating(network), staged_directory(target, replaces=MANIFEST_NAME if replace else None) as stage:
        on_step("tracing the network, rewriting it for every schedule and proving each form")
        plan = _plan(network, config)
        with SharedWeights(stage / _WEIGHTS) as weights:
            trunks, ranges = _write_graphs(plan, config, weights, stage, on_step)
        on_step("computing reference outputs in PyTorch")
        reference = _write_reference(plan, config, stage)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            network=NetworkRecord(
                source=config.source,
                parameters=sum(parameter.numel() for parameter in network.parameters()),
                width=config.width,
                checkpoint_sha256=config.checkpoint_sha256,
            ),
            input=plan.frame,
            outputs=config.outputs,
            classes=list(plan.classes),
            windows=plan.windows,
            model="model.onnx",
            prepare="prepare.onnx",
            weights=_WEIGHTS,
            trunks=trunks,
            keep_fp32={precision: list(patterns) for precision, patterns in config.keep_fp32.items() if patterns},
            calibration=_calibration_record(config, ranges),
            reference=reference,
            engines=[],
            tunings=[],
            opset=config.opset,
            tools={name: version(name) for name in ("smp-deploy", "torch", "onnx", "onnxscript", "onnx-ir")},
            files={},
        )
        (stage / README_NAME).write_text(readme_from_manifest(manifest), encoding="utf-8")
        files = {
            path.relative_to(stage).as_posix(): record_of_file(path)
            for path in sorted(stage.rglob("*"))
            if path.is_file()
        }
        manifest = msgspec.structs.replace(manifest, files=files)
        (stage / MANIFEST_NAME).write_bytes(json_from_manifest(manifest))
    return Bundle(target, manifest)


def _plan(network: nn.Module, config: ExportConfig) -> _Plan:
    for index, frame in enumerate(config.reference_frames):
        if frame.shape != (*config.size, 3) or frame.dtype != np.uint8:
            raise InputError(
                f"reference frame {index} is {frame.shape[0]}x{frame.shape[1]}, {frame.dtype}; "
                f"it must be a frame of {config.size[0]}x{config.size[1]}, uint8"
            )
    graph = graph_from_network(network)
    levels = levels_from_graph(graph)
    multiple = size_multiple_of(network, levels)
    padded = padded_size(config.size, multiple)
    channels = _classes_of(graph, padded)
    classes = config.classes or tuple(default_classes(channels))
    if len(classes) != channels:
        raise InputError(f"the network has {channels} classes, the class file names {len(classes)}")
    if config.outputs is OutputKind.LABELS and channels > _MAX_LABELS:
        raise NetworkError(f"labels are uint8; {channels} classes do not fit, choose --outputs logits or probabilities")
    fold_batch_norms(graph)
    kept = kept_modules(graph, config.keep_fp32)
    trunks = list(planned_trunks(network, graph, config.trunks, multiple))
    record = InputRecord(
        size=config.size,
        padded_size=padded,
        border=trunks[0].looped.border,
        mean=config.normalization.mean,
        std=config.normalization.std,
    )
    return _Plan(network, graph, levels.windows, trunks, kept, record, classes)


def _classes_of(graph: fx.GraphModule, size: Size) -> int:
    """Channels of the logits, from a pass without values."""
    on_meta = copy.deepcopy(graph).to("meta")
    try:
        shape = tuple(on_meta(torch.empty(1, 3, *size, device="meta")).shape)
    except Exception as error:
        # The network is the user's code and may raise anything.
        raise NetworkError(f"the network cannot take an image of {size[0]}x{size[1]}: {error}") from error
    if len(shape) != 4 or shape[0] != 1 or shape[2:] != size:
        raise NetworkError(
            f"a network maps (1, 3, {size[0]}, {size[1]}) to logits (1, classes, {size[0]}, {size[1]}); "
            f"this one gives {shape}"
        )
    return int(shape[1])


def _write_graphs(
    plan: _Plan, config: ExportConfig, weights: SharedWeights, stage: Path, on_step: Step
) -> tuple[list[TrunkRecord], dict[str, float]]:
    on_step("exporting model.onnx, the whole network")
    whole = WholeNetwork(config.normalization, plan.graph, plan.frame.size, plan.frame.padded_size)
    # A batch of two: one would be taken for a constant.
    frames = torch.zeros((), dtype=torch.uint8).expand(2, *plan.frame.size, 3)
    model = onnx_from_torch(whole.eval(), {"frames": frames}, output_name="logits", opset=config.opset, batch="batch")
    weights.save_graph(model, stage / "model.onnx")
    on_step("exporting prepare.onnx, the normalisation")
    prepare = Prepare(config.normalization, _planes(plan.frame))
    model = onnx_from_torch(prepare.eval(), {"frame": frames[0]}, output_name="planes", opset=config.opset)
    weights.save_graph(model, stage / "prepare.onnx")
    ranges = _ranges(plan, config, on_step)
    trunks = write_trunks(
        plan.trunks,
        plan.frame,
        config.outputs,
        PrecisionPlan(config.precisions, plan.kept, ranges),
        opset=config.opset,
        weights=weights,
        stage=stage,
        on_step=on_step,
    )
    return trunks, ranges


def _check_precisions(config: ExportConfig) -> None:
    """What can be said before the minutes of work."""
    for precision in config.precisions:
        check_opset(precision, config.opset)
    if (Precision.INT8 in config.precisions) != (config.calibration is not None):
        raise InputError(
            "int8 needs calibration frames, and they are for int8 alone: ask for both, with --precision int8 and "
            "--calibration-images"
        )
    if config.calibration is not None:
        check_frames(config.calibration.frames, config.size)
    for precision in config.keep_fp32:
        if precision not in config.precisions:
            raise InputError(f"modules are to stay in fp32 in {precision.value} trunks, and none are to be written")


def _ranges(plan: _Plan, config: ExportConfig, on_step: Step) -> dict[str, float]:
    """The activation ranges for int8: measured once, and valid for every trunk."""
    if config.calibration is None:
        return {}
    count = len(config.calibration.frames)
    on_step(f"calibrating int8 on {count} frame{'s' if count > 1 else ''} ({config.calibration.method.value})")
    default, frame = plan.trunks[0], plan.frame
    grid = PhaseGrid(
        frame.size, frame.padded_size, default.looped.cut_window, frame.border, default.looped.inner_windows
    )
    return ranges_from_frames(default.form.graph, grid, config.normalization, config.calibration)


def _calibration_record(config: ExportConfig, ranges: dict[str, float]) -> CalibrationRecord | None:
    calibration = config.calibration
    if calibration is None:
        return None
    return CalibrationRecord(
        method=calibration.method.value,
        percentile=calibration.percentile if calibration.method is CalibrationMethod.PERCENTILE else None,
        frames=len(calibration.frames),
        ranges=ranges,
    )


def _planes(frame: InputRecord) -> PhaseGrid:
    """The prepared planes as one phase: what all trunks of the bundle read."""
    return PhaseGrid(frame.size, frame.padded_size, (1, 1), frame.border)


def _write_reference(plan: _Plan, config: ExportConfig, stage: Path) -> list[ReferenceRecord]:
    directory = stage / "reference"
    directory.mkdir()
    levels = reference_levels(plan.frame.padded_size, plan.windows, most_levels(plan.graph))
    window = total_window(plan.windows[:levels])
    splits = outer_splits(plan.network, plan.graph, levels)
    grid = PhaseGrid(plan.frame.size, plan.frame.padded_size, window, (0, 0, 0, 0))
    records = []
    for case, frame in enumerate(config.reference_frames or (noise_frame(plan.frame.size, seed=0),)):
        phase = reference_phase(window, case)
        try:
            logits = phase_logits(plan.network, splits, frame, grid, phase, config.normalization)
        except RuntimeError as error:
            if "allocate memory" in str(error):
                raise MemoryError(f"a frame of {config.size[0]}x{config.size[1]} is too large for it") from error
            raise
        if not np.isfinite(logits).all():
            raise NetworkError("the network's logits are not finite on a reference frame; check the checkpoint")
        record = ReferenceRecord(
            frame=f"reference/frame-{case}.npy", window=window, phase=phase, logits=f"reference/logits-{case}.npy"
        )
        _write_array(stage / record.frame, frame)
        _write_array(stage / record.logits, logits)
        records.append(record)
    return records


def _write_array(path: Path, array: NDArray[Any]) -> None:
    # numpy's own writing to a file hides why it failed: a full disk becomes "requested and written".
    content = io.BytesIO()
    np.save(content, array)
    path.write_bytes(content.getbuffer())


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode inside the block, and as it was afterwards."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
