"""The manifest of a bundle: its types are its schema, checked on writing and on reading.

``manifest_schema()`` gives the same schema as a JSON Schema document.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any, TypeAlias

import msgspec

from engines.errors import BundleError
from engines.schedules.phases import PhaseGrid
from engines.schedules.schedule import Lowering, Precision, Schedule

SCHEMA_VERSION = 6
"""Raised by every change that an older reader would misunderstand."""

MANIFEST_NAME = "manifest.json"

_MOST = 2**53
"""What a float holds exactly: shares and sums of what a manifest counts can be computed."""

_Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
_NotNegative: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
_Byte: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Milliseconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
_Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_SizeField: TypeAlias = tuple[_Positive, _Positive]
_FileName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[^\x00-\x1f\x7f]{1,255}$")]


class OutputKind(enum.Enum):
    """What the bundle's trunk and its session give for a frame of ``(H, W)``."""

    LABELS = "labels"
    """``(H, W)`` uint8: the class of the highest logit."""
    LOGITS = "logits"
    """``(classes, H, W)`` float32."""
    PROBABILITIES = "probabilities"
    """``(classes, H, W)`` float32: softmax over the classes."""


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every part of a manifest: immutable, and without fields that the schema does not name."""


class FileRecord(_Record, frozen=True):
    """What a file of the bundle must be."""

    sha256: _Sha256
    size: _NotNegative
    """Bytes."""


class ClassRecord(_Record, frozen=True):
    """One class: the value of a label is its place in the list."""

    name: str
    color: tuple[_Byte, _Byte, _Byte]
    """RGB."""


class NetworkRecord(_Record, frozen=True):
    """Where the network comes from."""

    source: Annotated[str, msgspec.Meta(min_length=1)]
    """Name of a known architecture, or ``package.module:factory``; else the dotted name of the network's class."""
    parameters: _NotNegative
    width: _Positive | None = None
    """Channels of the stem, for a known architecture."""
    checkpoint_sha256: _Sha256 | None = None
    """Of the checkpoint file, where there was one."""


class InputRecord(_Record, frozen=True):
    """The frame, uint8 RGB ``(H, W, 3)``, and its normalisation ``(x / 255 - mean) / std``."""

    size: _SizeField
    padded_size: _SizeField
    border: tuple[_NotNegative, _NotNegative, _NotNegative, _NotNegative]
    """Zeros around the padded frame in the prepared planes: top, left, bottom, right."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class TrunkRecord(_Record, frozen=True):
    """One trunk: which levels the loop around it walks, what it is given, and what it costs."""

    levels: _NotNegative
    """Splits that the loop stands for; the others stay inside."""
    lowering: Lowering
    cut_window: _SizeField
    """The one pooling window of the levels whose offset is where a window is cut."""
    inner_windows: list[_SizeField]
    """The windows of the further levels, whose offsets are an input of the trunk, outermost first."""
    graphs: dict[Precision, _FileName]
    convolutions: dict[Precision, dict[Precision, _Positive]]
    """Of each graph: how many compute in which precision."""
    operations: _NotNegative
    """Of one phase: two for a multiply-accumulate, one for a bias or a ReLU."""
    live_bytes: dict[Precision, _NotNegative]
    """Largest sum of tensors alive at once, for a sub-batch of one; it grows with the sub-batch."""
    packed_bytes: dict[Precision, _NotNegative]
    """Size of the block in which ONNX Runtime lays the tensors out on a CPU, where it computes in this precision."""
    arena_bytes: dict[Precision, _NotNegative]
    """Size of the arena that ONNX Runtime takes for the tensors on a GPU, for a sub-batch of one."""
    largest_tensor: _NotNegative
    """Elements of the largest tensor, for a sub-batch of one."""


class CalibrationRecord(_Record, frozen=True):
    """How the activations of the int8 trunks were measured."""

    method: Annotated[str, msgspec.Meta(min_length=1)]
    frames: _Positive
    ranges: dict[str, Annotated[float, msgspec.Meta(ge=0)]]
    """By module: the magnitude at its input that becomes 127."""
    percentile: Annotated[float, msgspec.Meta(gt=0, le=100)] | None = None
    """Where the method has one."""


class ReferenceRecord(_Record, frozen=True):
    """A frame and what PyTorch computes for one phase of it, in fp32."""

    frame: _FileName
    """``.npy``, uint8 ``(H, W, 3)``."""
    window: _SizeField
    """The pooling window that the phase is one of: of the network's first splits."""
    phase: tuple[_NotNegative, _NotNegative]
    logits: _FileName
    """``.npy``, float32 ``(classes, i, j)``."""


class EngineRecord(_Record, frozen=True):
    """A built engine and its build record."""

    engine: _FileName
    """The trunk's plan."""
    prepare: _FileName
    """The plan of ``prepare.onnx``."""
    record: _FileName
    backend: str
    """The name of the one that built it and that runs it, ``"tensorrt"`` say."""
    precision: Precision
    schedule: Schedule

    @property
    def files(self) -> tuple[str, str, str]:
        """All of them."""
        return self.engine, self.prepare, self.record

    @property
    def use(self) -> tuple[str, Precision, Schedule]:
        """What the engine is for; a bundle holds one engine for each use."""
        return self.backend, self.precision, self.schedule


class TuningMeasurement(_Record, frozen=True):
    """How long a schedule took."""

    schedule: Schedule
    frame_ms: Annotated[list[_Milliseconds], msgspec.Meta(min_length=1)]
    """Of a frame, in every round that the schedule took part in; a hopeless one is dropped early."""


class TuningRecord(_Record, frozen=True):
    """Which schedule is fastest on a device, and what was measured there."""

    device: str
    """As the backend names it: a processor and its cores, or a GPU."""
    backend: str
    precision: Precision
    runtime: str
    """Name and version."""
    measurements: Annotated[list[TuningMeasurement], msgspec.Meta(min_length=1)]
    """The winner first."""

    @property
    def use(self) -> tuple[str, str, Precision, str]:
        """What the tuning holds for; a bundle has one for each use."""
        return self.device, self.backend, self.precision, self.runtime


class Manifest(_Record, frozen=True):
    """``manifest.json``."""

    schema_version: _Positive
    network: NetworkRecord
    input: InputRecord
    outputs: OutputKind
    classes: Annotated[list[ClassRecord], msgspec.Meta(min_length=1)]
    windows: list[_SizeField]
    """The windows of the network's splits, in the order of their levels."""
    model: _FileName
    prepare: _FileName
    weights: _FileName
    """External data of every graph."""
    trunks: Annotated[list[TrunkRecord], msgspec.Meta(min_length=1)]
    """The default first."""
    keep_fp32: dict[Precision, list[str]]
    """Patterns of the modules that stay in fp32 in the trunks of a precision."""
    calibration: CalibrationRecord | None
    """Where there are int8 trunks."""
    reference: Annotated[list[ReferenceRecord], msgspec.Meta(min_length=1)]
    engines: list[EngineRecord]
    tunings: list[TuningRecord]
    opset: _Positive
    tools: dict[str, str]
    """Versions of what wrote the bundle."""
    files: dict[_FileName, FileRecord]

    def trunk(self, levels: int | None = None, lowering: Lowering | None = None) -> TrunkRecord:
        """The trunk of these levels and this lowering, or the first that fits what is given.

        Raises :class:`BundleError`, with what there is, when the bundle was exported without it.
        """
        for trunk in self.trunks:
            if levels in (None, trunk.levels) and lowering in (None, trunk.lowering):
                return trunk
        wanted = " ".join(
            ([] if levels is None else [f"of levels {levels}"])
            + ([] if lowering is None else [f"with the {lowering.value} lowering"])
        )
        held = ", ".join(f"{trunk.levels} {trunk.lowering.value}" for trunk in self.trunks)
        raise BundleError(f"the bundle has no trunk {wanted} (it has {held}); export it with levels and lowerings")

    def trunk_of(self, schedule: Schedule) -> TrunkRecord:
        """The trunk that a schedule walks. Raises :class:`BundleError` as :meth:`trunk` does."""
        return self.trunk(schedule.levels, schedule.lowering)

    def schedules_of(self, trunk: TrunkRecord) -> list[Schedule]:
        """A trunk with sub-batches of powers of two, and of all phases that can go together."""
        largest = self.grid(trunk).largest_sub_batch
        sizes = sorted({*(2**power for power in range(largest.bit_length())), largest})
        return [Schedule(trunk.levels, size, trunk.lowering) for size in sizes]

    def frame_operations(self, trunk: TrunkRecord) -> int:
        """Operations of a trunk for all phases of a frame."""
        return trunk.operations * len(self.grid(trunk).phases)

    def check_classes(self, given: int) -> None:
        """Raise :class:`BundleError` where the graphs give labels of more classes than are named."""
        if given > len(self.classes):
            raise BundleError(f"{MANIFEST_NAME} names {len(self.classes)} classes, and the graphs give {given} or more")

    def grid(self, trunk: TrunkRecord) -> PhaseGrid:
        """The phases that a session walks with this trunk."""
        frame = self.input
        return PhaseGrid(frame.size, frame.padded_size, trunk.cut_window, frame.border, tuple(trunk.inner_windows))


class _Version(msgspec.Struct):
    schema_version: _Positive


def manifest_from_json(document: bytes) -> Manifest:
    """Read a manifest; :class:`BundleError` says what the schema wants and where."""
    try:
        version = msgspec.json.decode(document, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"the bundle has schema version {version}, this smp-deploy reads {SCHEMA_VERSION}; "
                "update smp-deploy or export again"
            )
        if version < SCHEMA_VERSION:
            raise BundleError(
                f"the bundle has schema version {version}, this smp-deploy reads {SCHEMA_VERSION}; export again"
            )
        manifest = msgspec.json.decode(document, type=Manifest)
        _check_consistency(manifest)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST_NAME} is not a valid manifest: {error}") from error
    return manifest


def json_from_manifest(manifest: Manifest) -> bytes:
    """Write a manifest, after the same checks as on reading."""
    document = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    manifest_from_json(document)
    return document


def manifest_schema() -> dict[str, Any]:
    """The schema as a JSON Schema document."""
    return msgspec.json.schema(Manifest)


def _check_consistency(manifest: Manifest) -> None:
    """What types cannot say: the files named exist in ``files``, and the geometry holds together."""
    named = [manifest.model, manifest.prepare, manifest.weights]
    named += [name for trunk in manifest.trunks for name in trunk.graphs.values()]
    named += [name for case in manifest.reference for name in (case.frame, case.logits)]
    named += [name for engine in manifest.engines for name in engine.files]
    for name in named:
        if name not in manifest.files:
            raise BundleError(f"{MANIFEST_NAME} names {name!r} but does not list it among its files")
    graphs = {(trunk.levels, trunk.lowering): trunk.graphs for trunk in manifest.trunks}
    if len(graphs) < len(manifest.trunks):
        raise BundleError(f"{MANIFEST_NAME} lists two trunks of the same levels and lowering")
    for tuning in manifest.tunings:
        for held in tuning.measurements:
            if (held.schedule.levels, held.schedule.lowering) not in graphs:
                raise BundleError(f"{MANIFEST_NAME} has a tuning of {held.schedule}, but no such trunk")
    for engine in manifest.engines:
        if engine.precision.graph not in graphs.get((engine.schedule.levels, engine.schedule.lowering), {}):
            raise BundleError(
                f"{MANIFEST_NAME} has an engine in {engine.precision.value} of {engine.schedule}, but no such trunk"
            )
    for trunk in manifest.trunks:
        if not trunk.graphs.keys() <= trunk.convolutions.keys():
            raise BundleError(f"{MANIFEST_NAME} does not count the convolutions of every trunk")
        # Raises for a window that does not divide the frame.
        manifest.grid(trunk)
    for case in manifest.reference:
        (row, column), (h, w), (height, width) = case.phase, case.window, manifest.input.padded_size
        if row >= h or column >= w or height % h or width % w:
            raise BundleError(
                f"{MANIFEST_NAME} has a reference phase {case.phase} of a window of {h}x{w} in {height}x{width}"
            )
