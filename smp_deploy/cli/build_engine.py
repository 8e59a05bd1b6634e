"""``smp-deploy build-engine``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from engines.backends.tensorrt.builder import BuildListener, BuiltEngine, engine_from_onnx
from engines.backends.tensorrt.flavours import import_tensorrt
from engines.backends.tensorrt.machine import this_machine
from engines.backends.tensorrt.records import BuildInputs, held_engine, identity_of_build, record_of_build
from engines.backends.tensorrt.settings import BuildConfig, HardwareCompatibility, MemoryPool
from engines.backends.tensorrt.targets import Target, check_build, check_flavour, check_machine
from engines.backends.tensorrt.timing import check_timing_cache
from engines.backends.tensorrt.trtexec import trtexec_lines
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Flavour, Precision
from engines.errors import InputError
from engines.schedules.schedule import default_schedule
from smp_deploy import __version__
from smp_deploy.cli.console import note, print_json, print_table, progress
from smp_deploy.cli.options import (
    BundleArgument,
    JsonOption,
    LevelsOption,
    LoweringOption,
    MemoryOption,
    SubBatchOption,
    memory_bytes,
)
from smp_deploy.cli.schedules import ScheduleOptions, asked_schedule


def build_engine_command(
    bundle: BundleArgument,
    fp16: Annotated[bool, typer.Option("--fp16", help="Build the half-precision trunk.")] = False,
    fp32: Annotated[bool, typer.Option("--fp32", help="Build the single-precision trunk (the default).")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="Build the bfloat16 trunk.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Build the quantized trunk.")] = False,
    levels: LevelsOption = None,
    lowering: LoweringOption = None,
    sub_batch: SubBatchOption = None,
    memory: MemoryOption = None,
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
    force: Annotated[bool, typer.Option("--force", help="Build even if the bundle holds this engine already.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print TensorRT's log on stderr.")] = False,
    as_json: JsonOption = False,
) -> dict[str, Any]:
    """Build TensorRT engines of BUNDLE's trunk and of its prepare.onnx on this machine, with their build record.

    An engine runs on the kind of GPU and the TensorRT version it was built with: build on the target.
    TensorRT-RTX builds portable engines on any machine, with or without a GPU. Precision is in the graph
    (strongly typed); the build record counts the convolutions by their type.

    An engine that the bundle holds already, of the same graphs, TensorRT, device and flags, is not built again.
    """
    precision = _precision(fp16=fp16, fp32=fp32, bf16=bf16, int8=int8)
    config = BuildConfig(
        precision=precision,
        sub_batch=sub_batch or 1,
        flavour=Flavour(flavour.replace("-", "_")) if flavour else None,
        optimization_level=optimization_level,
        pool_limits=_pool_limits(pool_limits or ()),
        max_aux_streams=max_aux_streams,
        hardware_compatibility=hardware_compatibility,
        version_compatible=version_compatible,
        timing_cache=timing_cache,
    )
    machine, opened = this_machine(), Bundle.open(bundle)
    options = ScheduleOptions.of(levels, lowering, sub_batch, memory)
    asked = asked_schedule(opened, "tensorrt", precision, options)
    schedule = asked.schedule if asked is not None else default_schedule(opened.manifest)
    if memory is not None:
        config = replace(config, sub_batch=schedule.sub_batch)
    if config.sub_batch > schedule.sub_batch:
        raise InputError(
            f"at levels {schedule.levels} at most {schedule.sub_batch} phases go together; "
            f"a sub-batch of {config.sub_batch} is never filled"
        )
    trunk_record = opened.manifest.trunk(schedule.levels, schedule.lowering)
    graph, grid = opened.trunk_graph(trunk_record, precision), opened.manifest.grid(trunk_record)
    inputs = BuildInputs(graph.relative_to(opened.path).as_posix(), opened.manifest.prepare, opened.manifest.weights)
    config = replace(config, convolutions=trunk_record.convolutions[precision])
    trtexec = trtexec_lines(str(graph), "windows", (3, *grid.window_size), config)

    check_machine(target, machine, trtexec)
    if config.flavour is None and target is Target.RTX:
        config = replace(config, flavour=Flavour.TENSORRT_RTX)
    if config.flavour is not None:
        check_flavour(target, machine, config.flavour)
    built, trt = import_tensorrt(config.flavour)
    check_flavour(target, machine, built)
    built_with = (built, str(trt.__version__))
    config = replace(config, flavour=built)
    check_build(target, machine, config, built_with, trtexec)
    identity = identity_of_build(opened, inputs, config, built_with, machine)
    held = None if force else held_engine(opened, identity)
    if held is not None:
        engine, record = held
        note("the bundle holds this engine already; --force builds it again")
        return _shown({"engine": str(opened.file(engine.engine)), "cached": True, **record}, as_json)

    opened.check_writable()
    if config.timing_cache is not None:
        if built is Flavour.TENSORRT_RTX:
            note(f"TensorRT-RTX has no timing cache: {config.timing_cache} is neither read nor written")
        else:
            check_timing_cache(config.timing_cache)
    show = _build_verbosely if verbose else _build
    trunk = show(graph, config)
    prepare = show(opened.file(inputs.prepare), replace(config, precision=None, convolutions=None, sub_batch=1))
    record = {"smp_deploy": __version__, **record_of_build(identity, config, target, trunk, prepare)}
    stored = opened.with_engine(built, precision, schedule, plan=trunk.plan, prepare=prepare.plan, record=record)
    engine = stored.manifest.engines[-1]
    return _shown({"engine": str(stored.file(engine.engine)), "cached": False, **record}, as_json)


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


def _build(graph: Path, config: BuildConfig) -> BuiltEngine:
    with progress(f"building {graph.name}, percent") as advance:
        return engine_from_onnx(graph, config, BuildListener(on_progress=advance))


def _build_verbosely(graph: Path, config: BuildConfig) -> BuiltEngine:
    # TensorRT's log is the progress: a bar would be torn apart by it.
    note(f"building {graph.name}")
    return engine_from_onnx(graph, config, BuildListener(on_log=lambda severity, text: note(f"[{severity}] {text}")))


def _shown(document: dict[str, Any], as_json: bool) -> dict[str, Any]:
    if as_json:
        print_json(document)
        return document
    effective = document["effective_precision"]
    rows = [
        ("built with", f"{document['flavour']} {document['version']} in {document['build_s']:.1f} s"),
        ("convolutions", _counts(document["convolutions"])),
        ("computes in", effective if isinstance(effective, str) else _counts(effective)),
        ("largest input", " x ".join(map(str, document["input_shape"]))),
        ("size", f"{document['plan_bytes'] / 1e6:.1f} MB, prepare {document['prepare_plan_bytes'] / 1e6:.1f} MB"),
    ]
    print_table(("engine", document["engine"]), rows)
    return document


def _counts(types: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in types.items())
