"""``smp-deploy pack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from engines.backends import DEFAULT_BACKEND
from engines.bundle.manifest import OutputKind
from engines.errors import module_of_extra
from engines.schedules.schedule import Precision
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.opening import opened_bundle
from smp_deploy.cli.options import (
    BundleArgument,
    JsonOption,
    LevelsOption,
    LoweringOption,
    MemoryOption,
    PrecisionOption,
    SubBatchOption,
    TrustOption,
    above_zero,
    backend_option,
    finite,
)

_MEAN = "With --input scaled: what is taken off each channel, in the order of the channels.  [default: 0 0 0]"


def pack_command(
    bundle: BundleArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE.onnx", help="The file; FILE.json beside it describes it."),
    ],
    precision: PrecisionOption = Precision.FP32,
    backend: Annotated[
        str, backend_option("Whose memory is predicted, and whose tuning counts, where a schedule is chosen.")
    ] = DEFAULT_BACKEND,
    levels: LevelsOption = None,
    lowering: LoweringOption = None,
    sub_batch: SubBatchOption = None,
    memory: MemoryOption = None,
    loop: Annotated[
        Literal["loop", "unrolled"],
        typer.Option("--loop", help="unrolled: for a runtime without loops, of at most 16 sub-batches."),
    ] = "loop",
    input: Annotated[
        Literal["uint8", "scaled", "normalized", "nv12"],
        typer.Option("--input", help="uint8 pixels, float32 that the host scaled or normalised, or NV12 planes."),
    ] = "uint8",
    input_layout: Annotated[
        Literal["hwc", "chw", "nhwc", "nchw"] | None,
        typer.Option("--input-layout", help="Axes of the frame.  [default: hwc for uint8, nchw for float32]"),
    ] = None,
    input_color: Annotated[Literal["rgb", "bgr"], typer.Option("--input-color", help="Order of the channels.")] = "rgb",
    input_scale: Annotated[
        float | None,
        typer.Option(
            "--input-scale",
            callback=above_zero,
            metavar="FACTOR",
            help="With --input scaled: the host gives FACTOR * (x - mean).  [default: 1; x>0]",
        ),
    ] = None,
    input_mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option("--input-mean", callback=finite, metavar="A B C", help=_MEAN),
    ] = None,
    yuv_matrix: Annotated[
        Literal["bt601", "bt709"] | None,
        typer.Option("--yuv-matrix", help="With --input nv12.  [default: bt601]"),
    ] = None,
    yuv_range: Annotated[
        Literal["limited", "full"] | None,
        typer.Option("--yuv-range", help="With --input nv12.  [default: limited]"),
    ] = None,
    outputs: Annotated[
        OutputKind | None, typer.Option("--outputs", help="What the bundle must give.  [default: what it gives]")
    ] = None,
    output_layout: Annotated[
        Literal["hw", "nhw", "hwc", "chw", "nhwc", "nchw"] | None,
        typer.Option("--output-layout", help="Axes of the output.  [default: hw for labels, else chw]"),
    ] = None,
    label_type: Annotated[
        Literal["uint8", "int32", "int64"] | None, typer.Option("--label-type", help="Of labels.  [default: uint8]")
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option("--opset", metavar="N", help="17, for TensorRT 8.5 and 8.6.  [default: the bundle's]"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a packed file that stands there.")] = False,
    trust: TrustOption = None,
    as_json: JsonOption = False,
) -> dict[str, Any]:
    """Write a schedule of BUNDLE as one ONNX file, for any host that takes a network: frame in, labels out.

    Normalisation, the loop over the phases and the merge are inside, and so are the weights; memory stays bounded.
    Before the file is put in its place it is compared with a session on a reference frame, in ONNX Runtime: exit code
    1 where they differ, and nothing is left.

    \b
    smp-deploy pack BUNDLE -o network.onnx
    smp-deploy pack BUNDLE -o network.onnx --memory 1GiB --precision fp16 --label-type int32 --output-layout nhwc
    smp-deploy pack BUNDLE -o network.onnx --input nv12 --yuv-matrix bt709
    """
    packed = module_of_extra("converters.one_file.packing", "export").pack(
        opened_bundle(bundle, trust),
        output,
        precision=precision,
        backend=backend,
        levels=levels,
        lowering=lowering,
        sub_batch=sub_batch,
        memory=memory,
        loop=loop,
        input=input,
        input_layout=input_layout,
        input_color=input_color,
        input_scale=input_scale,
        input_mean=input_mean,
        yuv_matrix=yuv_matrix,
        yuv_range=yuv_range,
        outputs=outputs,
        output_layout=output_layout,
        label_type=label_type,
        opset=opset,
        replace=force,
        on_step=note,
    )
    document: dict[str, Any] = packed.builtins
    if as_json:
        print_json(document)
        return document
    note(f"wrote {packed.path} and {packed.document_path}")
    print_table(("packed", str(packed.path)), _rows(document, packed.schedule_reason))
    return document


def _rows(document: dict[str, Any], reason: str) -> list[tuple[str, str]]:
    schedule, proof = document["schedule"], document["proof"]
    walked = f"levels {schedule['levels']}, sub-batch {schedule['sub_batch']}, {schedule['lowering']}"
    output = document["output"]
    return [
        ("schedule", f"{walked}: {document['iterations']} iterations, {document['loop']}"),
        ("chosen", reason),
        ("precision", f"{document['precision']}, opset {document['opset']}"),
        ("takes", ", ".join(map(_tensor, document["input"]["tensors"]))),
        ("gives", _tensor(output["tensor"])),
        ("size", f"{document['file_size'] / 1e6:.1f} MB, SHA-256 {document['sha256'][:16]}"),
        ("proof" if proof["run"] else "not proven", proof["detail"]),
    ]


def _tensor(tensor: dict[str, Any]) -> str:
    sides = "x".join(map(str, tensor["shape"]))
    return f"{tensor['name']} {tensor['dtype']} {tensor['layout']} {sides}"
