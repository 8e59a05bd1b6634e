"""What a packed file says of itself: in its ``metadata_props``, and in a JSON file beside it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from converters.one_file.forms import ColorOrder, InputForm, InputKind, LoopForm, OutputForm, YuvMatrix, YuvRange
from engines.bundle.documents import struct_from_json
from engines.bundle.manifest import ClassRecord, OutputKind
from engines.bundle.names import Sha256
from engines.errors import BundleError
from engines.schedules.schedule import Precision, Schedule

SCHEMA_VERSION = 1
"""Raised by every change that an older reader would misunderstand."""

METADATA_PREFIX = "smp_deploy."
"""Before the name of a field of :class:`PackedRecord`, in ``metadata_props``; the value is JSON."""

_Positive = Annotated[int, msgspec.Meta(ge=1)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every part: immutable, and without fields that the schema does not name."""


class TensorRecord(_Part, frozen=True):
    """An input or the output of the file."""

    name: str
    dtype: str
    """As numpy calls it."""
    layout: str
    """Its axes: ``n``, ``h``, ``w``, and ``c`` for colours or classes."""
    shape: list[_Positive]


class PackedInput(_Part, frozen=True):
    """What the file takes for a frame."""

    kind: InputKind
    tensors: list[TensorRecord]
    color: ColorOrder
    """Order of the channels; NV12 has none, and says ``rgb``."""
    scale: float
    """A host gives ``scale * (x - mean)`` for a pixel in [0, 255], where the kind is ``scaled``."""
    mean: tuple[float, float, float]
    matrix: YuvMatrix | None
    """Where the kind is ``nv12``, as :attr:`range`."""
    range: YuvRange | None


class NormalizationRecord(_Part, frozen=True):
    """``(x / 255 - mean) / std`` of R, G and B: inside the file, but where a host gives ``normalized`` values."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class PackedOutput(_Part, frozen=True):
    """What the file gives."""

    kind: OutputKind
    tensor: TensorRecord


class PackedRecord(_Part, frozen=True):
    """What was packed, and how; in the file itself."""

    schema_version: _Positive
    product: str
    version: int
    network: str
    """Source of the network, as the bundle names it."""
    bundle_sha256: Sha256
    """Of the bundle's ``manifest.json``, which lists the SHA-256 of every file it was packed from."""
    size: tuple[_Positive, _Positive]
    """Of the frame, ``(height, width)``."""
    input: PackedInput
    normalization: NormalizationRecord
    output: PackedOutput
    classes: list[ClassRecord]
    """The value of a label is its place in the list."""
    schedule: Schedule
    loop: LoopForm
    iterations: _Positive
    precision: Precision
    opset: _Positive
    tools: dict[str, str]
    """Versions of what packed it."""


class ProofRecord(_Part, frozen=True):
    """How the file was compared with a session before it was put in its place."""

    run: bool
    detail: str
    """What was compared and what came of it, or why it could not be."""


class PackedDocument(PackedRecord, frozen=True):
    """The JSON file beside it."""

    file: str
    """Name of the ONNX file."""
    sha256: Sha256
    file_size: _Positive
    """Bytes."""
    proof: ProofRecord


def input_record(form: InputForm, size: tuple[int, int]) -> PackedInput:
    """What a form takes for frames of a size."""
    is_nv12 = form.kind is InputKind.NV12
    layouts = ["hw", "hwc"] if is_nv12 else [form.layout]
    return PackedInput(
        kind=form.kind,
        tensors=[
            TensorRecord(name=name, dtype=form.dtype.name, layout=layout, shape=list(shape))
            for (name, shape), layout in zip(form.shapes(size).items(), layouts, strict=True)
        ],
        color=form.color,
        scale=form.scale,
        mean=form.mean,
        matrix=form.matrix if is_nv12 else None,
        range=form.range if is_nv12 else None,
    )


def output_record(form: OutputForm, size: tuple[int, int], classes: int) -> PackedOutput:
    """What a form gives for frames of a size."""
    shape = list(form.shape(size, classes))
    tensor = TensorRecord(name=form.kind.value, dtype=form.dtype.name, layout=form.layout, shape=shape)
    return PackedOutput(kind=form.kind, tensor=tensor)


def metadata_of(record: PackedRecord) -> dict[str, str]:
    """A property for each field, with its value as JSON."""
    fields = msgspec.to_builtins(record)
    return {f"{METADATA_PREFIX}{name}": msgspec.json.encode(value).decode() for name, value in fields.items()}


def document_of(record: PackedRecord, name: str, digest: str, size: int, proof: ProofRecord) -> PackedDocument:
    """The record with what is known of the file."""
    fields = {field: getattr(record, field) for field in record.__struct_fields__}
    return PackedDocument(**fields, file=name, sha256=digest, file_size=size, proof=proof)


def json_from_document(document: PackedDocument) -> bytes:
    """As it lies on the disk."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def builtins_from_document(document: PackedDocument) -> dict[str, Any]:
    """As it is printed."""
    builtins: dict[str, Any] = msgspec.to_builtins(document)
    return builtins


def document_from_json(content: bytes, name: str) -> PackedDocument:
    """Read one. Raises :class:`BundleError` for what is none, or of another version."""
    try:
        document = struct_from_json(content, PackedDocument)
    except (msgspec.ValidationError, ValueError) as error:
        raise BundleError(f"{name} does not describe a packed file: {error}") from error
    if document.schema_version != SCHEMA_VERSION:
        raise BundleError(
            f"{name} has schema version {document.schema_version}, this smp-deploy reads {SCHEMA_VERSION}; pack again"
        )
    return document


def document_schema() -> dict[str, Any]:
    """The schema of the JSON file as a JSON Schema document."""
    return msgspec.json.schema(PackedDocument)
