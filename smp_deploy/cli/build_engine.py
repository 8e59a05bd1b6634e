"""``smp-deploy build-engine``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from engines.backends.tensorrt.builder import BuildListener
from engines.backends.tensorrt.settings import BuildOptions, HardwareCompatibility, MemoryPool
from engines.backends.tensorrt.targets import Target
from engines.building import build_engine
from engines.bundle.records import builtins_from_record
from engines.errors import InputError
from engines.schedules.schedule import Lowering, Precision
from smp_deploy.cli.console import note, print_json, print_table, progress
from smp_deploy.cli.opening import opened_bundle
from smp_deploy.cli.options import (
    BundleArgument,
    JsonOption,
    MemoryOption,
    TrustOption,
    device_option,
    levels_option,
    lowering_option,
    memory_bytes,
    sub_batch_option,
)


def build_engine_command(
    bundle: BundleArgument,
    fp16: Annotated[bool, typer.Option("--fp16", help="Build the half-precision trunk.")] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Build the single-precision trunk (the default).")] = False,
    tf32: Annotated[
        bool, typer.Option("--tf32", help="Build the single-precision trunk, and let TensorRT compute it in TF32.")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Build the bfloat16 trunk.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Build the quantized trunk.")] = False,
    levels: Annotated[int | None, levels_option("[default: the bundle's, which repeats no work]")] = None,
    lowering: Annotated[Lowering | None, lowering_option("[default: the bundle's]")] = None,
    sub_batch: Annotated[int | None, sub_batch_option("[default: 1]")] = None,
    memory: MemoryOption = None,
    device: Annotated[
        str | None, device_option("The GPU that it is built for: cuda, cuda:1.  [default: the first]")
    ] = None,
    target: Annotated[
        Target,
        typer.Option("--target", help="Where the engine shall run. A platform is refused anywhere but on itself."),
    ] = Target.THIS_MACHINE,
    flavour: Annotated[
        Literal["tensorrt", "tensorrt-rtx"] | None,
        typer.Option("--flavour", help="Which TensorRT.  [default: TensorRT where it is installed, else TensorRT-RTX]"),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            "--timing-cache",
            metavar="FILE",
            help="TensorRT's measurements: read where the file exists, written back after the build.",
        ),
    ] = None,
    optimization_level: Annotated[
        int | None,
        typer.Option(
            "--builder-optimization-level",
            min=0,
            max=5,
            metavar="N",
            help="Higher builds longer, and the engine may run faster.  [default: TensorRT's]",
        ),
    ] = None,
    pool_limits: Annotated[
        list[str] | None,
        typer.Option(
            "--pool-limit",
            metavar="NAME:SIZE",
            help="A memory pool's limit, workspace:512MiB for example; may be given several times.",
        ),
    ] = None,
    max_aux_streams: Annotated[
        int | None,
        typer.Option("--max-aux-streams", min=0, max=2**31 - 1, metavar="N", help="0 takes the least memory."),
    ] = None,
    hardware_compatibility: Annotated[
        HardwareCompatibility,
        typer.Option(
            "--hardware-compatibility-level",
            help="Which other GPUs the engine shall run on. Not on Jetson or DRIVE.",
        ),
    ] = HardwareCompatibility.NONE,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="An engine that TensorRT's next major version runs too.")
    ] = False,
    record_tactics: Annotated[
        bool,
        typer.Option(
            "--record-tactics",
            help="Keep the kernels that TensorRT chooses in the build record. TensorRT 10.13 and later.",
        ),
    ] = False,
    reproduce: Annotated[
        Path | None,
        typer.Option(
            "--reproduce",
            metavar="RECORD",
            help="Build with the kernels of a build record, and fail unless every one of them is taken.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build even if the bundle holds this engine already.")] = False,
    trust: TrustOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print TensorRT's log on stderr.")] = False,
    as_json: JsonOption = False,
) -> dict[str, Any]:
    """Build TensorRT engines of BUNDLE's trunk and of its prepare.onnx on this machine, with their build record.

    An engine runs on the kind of GPU and the TensorRT version it was built with: build on the target.
    TensorRT-RTX builds portable engines on any machine, with or without a GPU. Precision is in the graph
    (strongly typed); the build record counts the convolutions by their type.

    An engine that the bundle holds already, of the same graphs, TensorRT, device and flags, is not built again.
    """
    precision = _precision(fp16=fp16, fp32=fp32, tf32=tf32, bf16=bf16, int8=int8)
    options = BuildOptions(
        optimization_level=optimization_level,
        pool_limits=_pool_limits(pool_limits or ()),
        max_aux_streams=max_aux_streams,
        hardware_compatibility=hardware_compatibility,
        version_compatible=version_compatible,
        timing_cache=timing_cache,
    )
    with ExitStack() as bars:
        built = build_engine(
            opened_bundle(bundle, trust),
            flavour,
            precision,
            levels=levels,
            lowering=lowering,
            sub_batch=sub_batch,
            memory=memory,
            device=device,
            target=target,
            options=options,
            record_tactics=record_tactics,
            reproduce=reproduce,
            force=force,
            listener=_verbosely if verbose else partial(_with_progress, bars),
        )
    if built.cached:
        note("the bundle holds this engine already; --force builds it again")
    elif timing_cache is not None and not built.record.timing_cache:
        note(f"TensorRT-RTX has no timing cache: {timing_cache} is neither read nor written")
    engine = str(built.bundle.path / built.engine.engine)
    return _shown({"engine": engine, "cached": built.cached, **builtins_from_record(built.record)}, as_json)


def _precision(**asked: bool) -> Precision:
    """The one that a flag names, single precision without any."""
    named = [Precision(name) for name, wanted in asked.items() if wanted]
    if len(named) > 1:
        raise InputError(f"an engine has one precision; received {' '.join(f'--{p.value}' for p in named)}")
    return named[0] if named else Precision.FP32


def _pool_limits(texts: Sequence[str]) -> dict[MemoryPool, int]:
    known = {pool.value: pool for pool in MemoryPool}
    limits: dict[MemoryPool, int] = {}
    for text in texts:
        name, colon, size = text.partition(":")
        if not colon:
            raise InputError(f"--pool-limit is NAME:SIZE, workspace:512MiB for example; received {text!r}")
        if name not in known:
            raise InputError(f"--pool-limit knows the pools {', '.join(known)}; received {name!r}")
        if known[name] in limits:
            raise InputError(f"--pool-limit gives {name} twice")
        limits[known[name]] = memory_bytes(size)
    return limits


def _with_progress(bars: ExitStack, graph: str) -> BuildListener:
    """A bar for a graph, in place of the bar before it."""
    bars.close()
    return BuildListener(on_progress=bars.enter_context(progress(f"building {graph}, percent")))


def _verbosely(graph: str) -> BuildListener:
    # TensorRT's log is the progress: a bar would be torn apart by it.
    note(f"building {graph}")
    return BuildListener(on_log=_note_log)


def _note_log(severity: str, text: str) -> None:
    for line in text.expandtabs(4).splitlines():
        note(f"[{severity}] {line}")


def _shown(document: dict[str, Any], as_json: bool) -> dict[str, Any]:
    if as_json:
        print_json(document)
        return document
    effective = document["effective_precision"]
    rows = [
        ("built with", f"{document['backend']} {document['version']} in {document['build_s']:.1f} s"),
        ("convolutions", _counts(document["convolutions"])),
        ("computes in", effective if isinstance(effective, str) else _counts(effective)),
        ("largest input", " x ".join(map(str, document["input_shape"]))),
        ("size", f"{document['plan_bytes'] / 1e6:.1f} MB, prepare {document['prepare_plan_bytes'] / 1e6:.1f} MB"),
    ]
    if document["tactics"] is not None:
        rows.append(("tactics", ", ".join(f"{len(held)} of {graph}" for graph, held in document["tactics"].items())))
    fingerprint = document["fingerprint"]
    rows += [
        ("layers", _layers(fingerprint["trunk"])),
        ("outputs", _outputs(fingerprint["outputs"])),
    ]
    print_table(("engine", document["engine"]), rows)
    return document


def _layers(held: dict[str, Any] | str) -> str:
    return held if isinstance(held, str) else f"{len(held['layers'])}, SHA-256 {held['sha256'][:16]}"


def _outputs(held: list[dict[str, str]] | str) -> str:
    return held if isinstance(held, str) else ", ".join(f"SHA-256 {digest['output_sha256'][:16]}" for digest in held)


def _counts(types: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in types.items())
