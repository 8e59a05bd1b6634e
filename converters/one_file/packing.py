"""A bundle's schedule into one ONNX file: :func:`converters.pack`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from converters.graphs.reading import graph_from_file
from converters.one_file.arguments import checked_opset, input_form, output_form, packed_precision
from converters.one_file.assembling import packed_model
from converters.one_file.forms import ColorOrder, InputKind, LabelType, LoopForm, YuvMatrix, YuvRange
from converters.one_file.opsets import lower
from converters.one_file.proving import proven
from converters.one_file.record import (
    SCHEMA_VERSION,
    NormalizationRecord,
    PackedDocument,
    PackedRecord,
    builtins_from_document,
    document_of,
    input_record,
    json_from_document,
    metadata_of,
    output_record,
)
from converters.one_file.targets import check_targets, document_path
from converters.one_file.walk import Walk
from engines.backends import DEFAULT_BACKEND
from engines.backends.base import Backend
from engines.backends.versions import installed_versions
from engines.bundle.bundle import Bundle
from engines.bundle.contents import record_of
from engines.bundle.gate import write_files
from engines.bundle.manifest import OutputKind
from engines.errors import InputError, NetworkError
from engines.planning.choice import choose_schedule
from engines.planning.sizes import shown_bytes
from engines.schedules.schedule import Lowering, Precision, named

_TOOLS = ("smp-deploy", "onnx", "onnx-ir")

MOST_BYTES = 2**31 - 2**20
"""Of a protobuf, with room for the nodes beside the weights."""

Step = Callable[[str], None]


@dataclass(frozen=True)
class Packed:
    """A packed file."""

    path: Path
    document: PackedDocument
    """What lies beside it."""
    schedule_reason: str

    @property
    def document_path(self) -> Path:
        """The JSON file beside it."""
        return document_path(self.path)

    @property
    def builtins(self) -> dict[str, Any]:
        """The document in lists and dictionaries."""
        return builtins_from_document(self.document)


def pack(
    bundle: Bundle | str | Path,
    path: str | Path,
    *,
    precision: Precision | str = Precision.FP32,
    backend: str | Backend = DEFAULT_BACKEND,
    levels: int | None = None,
    lowering: Lowering | str | None = None,
    sub_batch: int | None = None,
    memory: int | str | None = None,
    loop: LoopForm | str = LoopForm.LOOP,
    input: InputKind | str = InputKind.UINT8,
    input_layout: str | None = None,
    input_color: ColorOrder | str = ColorOrder.RGB,
    input_scale: float | None = None,
    input_mean: Sequence[float] | None = None,
    yuv_matrix: YuvMatrix | str | None = None,
    yuv_range: YuvRange | str | None = None,
    outputs: OutputKind | str | None = None,
    output_layout: str | None = None,
    label_type: LabelType | str | None = None,
    opset: int | None = None,
    replace: bool = False,
    on_step: Step = lambda message: None,
) -> Packed:
    """Write a schedule of a bundle as one ONNX file that needs nothing else, and a JSON file that describes it.

    The written bytes are compared with a session of the bundle, in ONNX Runtime on the CPU, before they are put in
    their place. The same bundle and arguments give the same bytes.

    Args:
        bundle: an open bundle, or the path of one, whose files are then verified.
        path: of the file, which ends in ``.onnx``; beside it comes ``.json``.
        precision: arithmetic of the trunk.
        backend: whose memory is predicted, and whose tuning counts, where a schedule is chosen.
        levels: splits that the loop stands for, as :func:`engines.choose_schedule` takes it; also the next three.
        lowering: how the splits inside the trunk are computed.
        sub_batch: phases of an iteration.
        memory: of a session. A host that keeps an arena takes more.
        loop: ``"loop"``, or ``"unrolled"`` for a runtime without loops, of at most 16 sub-batches.
        input: ``"uint8"`` pixels; ``"scaled"`` or ``"normalized"`` float32; ``"nv12"``.
        input_layout: ``"hwc"`` (the default of uint8), ``"nchw"`` (of floats), ``"nhwc"`` or ``"chw"``.
        input_color: ``"rgb"`` or ``"bgr"``.
        input_scale: with ``"scaled"``: the host gives ``input_scale * (x - input_mean)``; by default ``x`` itself.
        input_mean: with ``"scaled"``: in the order of the channels.
        yuv_matrix: with ``"nv12"``: ``"bt601"`` (the default) or ``"bt709"``.
        yuv_range: with ``"nv12"``: ``"limited"`` (the default) or ``"full"``.
        outputs: what the bundle gives, and nothing else: by default that.
        output_layout: of labels ``"hw"`` (the default), ``"nhw"``, ``"hwc"``, ``"chw"``, ``"nhwc"`` or ``"nchw"``; of
            logits and probabilities ``"chw"`` (the default), ``"hwc"``, ``"nchw"`` or ``"nhwc"``.
        label_type: ``"uint8"`` (the default), ``"int32"`` or ``"int64"``.
        opset: 17, which TensorRT 8.5 and 8.6 read; by default the bundle's.
        replace: whether files that stand there already are replaced.
        on_step: called with what is being done.

    Raises:
        InputError: an argument is wrong, or the weights do not fit one file.
        BundleError: the bundle is absent or damaged, or has no trunk of this schedule and precision.
        NetworkError: the network has no form in opset 17.
        OutputError: a file is there and ``replace`` is false, or cannot be written.
        CheckFailed: the packed file gives something else than the session; nothing is left of it.
        MachineError: the runtime is missing or refuses the work.
    """
    opened, target = Bundle.of(bundle), Path(path)
    manifest, arithmetic = opened.manifest, packed_precision(precision)
    form = named(LoopForm, "loop", loop)
    takes = input_form(input, input_layout, input_color, input_scale, input_mean, yuv_matrix, yuv_range)
    gives = output_form(outputs or manifest.outputs, output_layout, label_type)
    takes.check(manifest.input.size)
    gives.check(manifest.outputs)
    wanted_opset = checked_opset(opset, manifest.opset, arithmetic)
    check_targets(opened, target, replace=replace)
    choice = choose_schedule(
        opened, backend, arithmetic, levels=levels, lowering=lowering, sub_batch=sub_batch, memory=memory
    )
    schedule = choice.schedule
    trunk = manifest.trunk_of(schedule)
    walk = Walk(manifest.grid(trunk), schedule.sub_batch)
    name = opened.trunk_graph(trunk, arithmetic)
    on_step(f"packing {schedule}, {arithmetic.value}: {len(walk.grid.phases)} phases in {walk.trips} iterations")
    prepare, network = (graph_from_file(opened.file(graph)) for graph in (manifest.prepare, name))
    _check_size([prepare, network])
    classes = len(manifest.classes)
    model = packed_model(prepare, network, walk, loop=form, takes=takes, gives=gives, classes=classes)
    if wanted_opset < manifest.opset:
        lower(model)
    record = PackedRecord(
        schema_version=SCHEMA_VERSION,
        product=manifest.product,
        version=manifest.version,
        network=manifest.network.source,
        bundle_sha256=opened.target.manifest_sha256,
        size=manifest.input.size,
        input=input_record(takes, manifest.input.size),
        normalization=NormalizationRecord(mean=manifest.input.mean, std=manifest.input.std),
        output=output_record(gives, manifest.input.size, classes),
        classes=manifest.classes,
        schedule=schedule,
        loop=form,
        iterations=walk.trips,
        precision=arithmetic,
        opset=wanted_opset,
        tools=installed_versions(_TOOLS),
    )
    model.metadata_props.update(metadata_of(record))
    content = ir.to_proto(model).SerializeToString(deterministic=True)
    del model, prepare, network
    _check_valid(content, wanted_opset)
    on_step("comparing it with a session")
    proof = proven(content, opened, schedule, arithmetic, takes, gives)
    held = record_of(content)
    document = document_of(record, target.name, held.sha256, held.size, proof)
    write_files({target: content, document_path(target): json_from_document(document)}, replace=replace)
    return Packed(target, document, choice.reason)


def _check_size(graphs: Sequence[ir.Model]) -> None:
    tensors = (value.const_value for model in graphs for value in model.graph.initializers.values())
    size = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    if size > MOST_BYTES:
        raise InputError(
            f"the weights are {shown_bytes(size)}, and one ONNX file holds less than 2 GiB; pack a smaller precision=, "
            "or keep the bundle, whose weights are a file of their own"
        )


def _check_valid(content: bytes, opset: int) -> None:
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).strip().splitlines()[0]
        raise NetworkError(f"the packed graph is not valid in opset {opset}: {reason}") from error
