"""The manifests of a bundle: their types are their schemas, checked on writing and on reading.

``manifest.json`` is what the export wrote and is never changed. ``target.json`` lists what was added where the bundle
runs: engines and tunings. So each has one author, who can sign it. ``manifest_schema()`` and ``target_schema()`` give
the same schemas as JSON Schema documents.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import msgspec

from engines.bundle.consistency import check_manifest, check_target
from engines.bundle.documents import glance, struct_from_json
from engines.bundle.edges import EdgeFrame
from engines.bundle.names import MANIFEST_NAME as MANIFEST_NAME
from engines.bundle.names import SIGNATURE_NAME as SIGNATURE_NAME
from engines.bundle.names import TARGET_NAME as TARGET_NAME
from engines.bundle.names import TARGET_SIGNATURE_NAME as TARGET_SIGNATURE_NAME
from engines.bundle.names import (
    AddedName,
    ArrayName,
    BuildRecordName,
    FileName,
    GraphName,
    PlanName,
    Sha256,
    WeightsName,
)
from engines.errors import BundleError
from engines.schedules.phases import PhaseGrid
from engines.schedules.schedule import Lowering, Precision, Schedule

SCHEMA_VERSION = 9
"""Raised by every change that an older reader would misunderstand."""

LARGEST_MANIFEST = 8 * 2**20
"""Bytes of either."""

_MOST = 2**53
"""What a float holds exactly: shares and sums of what a manifest counts can be computed."""

_Positive: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
_NotNegative: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
_Byte: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=255)]
_Milliseconds: TypeAlias = Annotated[float, msgspec.Meta(ge=0)]
_SizeField: TypeAlias = tuple[_Positive, _Positive]


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

    sha256: Sha256
    size: _NotNegative
    """Bytes."""


class ClassRecord(_Record, frozen=True):
    """One class: the value of a label is its place in the list."""

    name: str
    color: tuple[_Byte, _Byte, _Byte]
    """RGB."""


class DensifiedRecord(_Record, frozen=True):
    """How a strided network was made dense before it was exported."""

    until: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    """The module behind which strides were kept."""
    upsampling: Literal["kernel", "merge"] | None = None
    """What an interpolation became; ``None`` for its kernel where it has one."""
    max_pool: Literal["dense", "split"] = "dense"
    """What a strided max pool became."""


class NetworkRecord(_Record, frozen=True):
    """Where the network comes from."""

    source: Annotated[str, msgspec.Meta(min_length=1)]
    """Name of a known architecture, or ``package.module:factory``; else the dotted name of the network's class."""
    parameters: _NotNegative
    width: _Positive | None = None
    """Channels of the stem, for a known architecture."""
    checkpoint_sha256: Sha256 | None = None
    """Of the checkpoint file, where there was one."""
    parameters_sha256: Sha256 | None = None
    """Of all parameters and buffers, as :func:`converters.reference.digest_of_parameters` reads them."""
    densified: DensifiedRecord | None = None
    """``None`` for a network as its source makes it."""
    threshold: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    """Of a network of one logit a pixel: the label is 1 where the sigmoid is above it."""


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
    graphs: dict[Precision, GraphName]
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

    frame: ArrayName
    """``.npy``, uint8 ``(H, W, 3)``."""
    window: _SizeField
    """The pooling window that the phase is one of: of the network's first splits."""
    phase: tuple[_NotNegative, _NotNegative]
    logits: ArrayName
    """``.npy``, float32 ``(classes, i, j)``."""


class EdgeRecord(_Record, frozen=True):
    """What PyTorch computes for one phase of each of the generated frames, in fp32."""

    frames: Annotated[list[EdgeFrame], msgspec.Meta(min_length=1)]
    """Those that the network has finite logits for."""
    window: _SizeField
    """The pooling window that the phases are of: of the network's first splits."""
    phases: list[tuple[_NotNegative, _NotNegative]]
    """Of each frame."""
    logits: ArrayName
    """``.npy``, float32 ``(frames, classes, i, j)``."""


class EngineRecord(_Record, frozen=True):
    """A built engine and its build record."""

    engine: PlanName
    """The trunk's plan."""
    prepare: PlanName
    """The plan of ``prepare.onnx``."""
    record: BuildRecordName
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


class TargetManifest(_Record, frozen=True):
    """``target.json``."""

    schema_version: _Positive
    manifest_sha256: Sha256
    """Of the ``manifest.json`` that it belongs to."""
    engines: list[EngineRecord]
    tunings: list[TuningRecord]
    files: dict[AddedName, FileRecord]
    """Those of the engines, and no others."""


class Manifest(_Record, frozen=True):
    """``manifest.json``."""

    schema_version: _Positive
    product: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    """What the bundle is a version of: who accepts bundles remembers the newest version of each product."""
    version: _NotNegative
    """Counts up: an older one is refused where a newer one was accepted (engines/trust)."""
    network: NetworkRecord
    input: InputRecord
    outputs: OutputKind
    classes: Annotated[list[ClassRecord], msgspec.Meta(min_length=1)]
    windows: list[_SizeField]
    """The windows of the network's splits, in the order of their levels."""
    model: GraphName
    prepare: GraphName
    weights: WeightsName
    """External data of every graph."""
    trunks: Annotated[list[TrunkRecord], msgspec.Meta(min_length=1)]
    """The default first."""
    keep_fp32: dict[Precision, list[str]]
    """Patterns of the modules that stay in fp32 in the trunks of a precision."""
    calibration: CalibrationRecord | None
    """Where there are int8 trunks."""
    reference: Annotated[list[ReferenceRecord], msgspec.Meta(min_length=1)]
    edges: EdgeRecord | None
    """Of frames at the edges of what a camera gives; ``None`` where the network has finite logits for none of them."""
    opset: _Positive
    tools: dict[str, str]
    """Versions of what wrote the bundle."""
    files: dict[FileName, FileRecord]
    """All that the export wrote."""

    @property
    def graphs(self) -> set[str]:
        """Names of all ONNX files."""
        return {self.model, self.prepare, *(name for trunk in self.trunks for name in trunk.graphs.values())}

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
    """Of any manifest."""

    schema_version: _Positive


_Read = TypeVar("_Read", Manifest, TargetManifest)


def manifest_from_json(document: bytes) -> Manifest:
    """Read a manifest; :class:`BundleError` says what the schema wants and where."""
    return _read(document, Manifest, MANIFEST_NAME, check_manifest)


def target_from_json(document: bytes, manifest: Manifest, manifest_sha256: str) -> TargetManifest:
    """Read what was added to a bundle of this manifest; :class:`BundleError` as :func:`manifest_from_json` does."""
    return _read(document, TargetManifest, TARGET_NAME, lambda target: check_target(target, manifest, manifest_sha256))


def _read(document: bytes, kind: type[_Read], name: str, check: Callable[[_Read], None]) -> _Read:
    try:
        read = struct_from_json(document, kind)
        _check_version(read.schema_version)
        check(read)
    except (msgspec.ValidationError, ValueError) as error:
        _check_version(getattr(glance(document, _Version), "schema_version", SCHEMA_VERSION))
        raise BundleError(f"{name} is not a valid manifest: {error}") from error
    return read


def _check_version(version: int) -> None:
    if version != SCHEMA_VERSION:
        remedy = "update smp-deploy or export again" if version > SCHEMA_VERSION else "export again"
        raise BundleError(f"the bundle has schema version {version}, this smp-deploy reads {SCHEMA_VERSION}; {remedy}")


def json_from_manifest(manifest: Manifest) -> bytes:
    """Write a manifest, after the same checks as on reading."""
    document = _document(manifest)
    manifest_from_json(document)
    return document


def json_from_target(target: TargetManifest, manifest: Manifest) -> bytes:
    """Write what was added to a bundle of this manifest, after the same checks as on reading."""
    document = _document(target)
    target_from_json(document, manifest, target.manifest_sha256)
    return document


def _document(manifest: Manifest | TargetManifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def manifest_schema() -> dict[str, Any]:
    """The schema of ``manifest.json`` as a JSON Schema document."""
    return msgspec.json.schema(Manifest)


def target_schema() -> dict[str, Any]:
    """The schema of ``target.json`` as a JSON Schema document."""
    return msgspec.json.schema(TargetManifest)
