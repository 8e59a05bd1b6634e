"""``smp-deploy build-engine``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from engines.backends.tensorrt.builder import BuildListener, BuiltEngine, engine_from_onnx
from engines.backends.tensorrt.flavours import import_tensorrt
from engines.backends.tensorrt.machine import this_machine
from engines.backends.tensorrt.records import BuildInputs, held_engine, identity_of_build, record_of_build
from engines.backends.tensorrt.settings import BuildConfig, HardwareCompatibility, MemoryPool
from engines.backends.tensorrt.targets import Target, check_build, check_flavour, check_machine
from engines.backends.tensorrt.timing import check_timing_cache
from engines.backends.tensorrt.trtexec import trtexec_lines
from engines.bundle.bundle import Bundle
from engines.schedules.schedule import Precision
from engines.bundle.records import builtins_from_record
from engines.schedules.schedule import default_schedule
from smp_deploy import __version__
from smp_deploy.cli.console import note, print_json, print_table, progress
from smp_deploy.cli.options import MemoryType, bundle_argument, json_option, schedule_options
from smp_deploy.cli.schedules import ScheduleOptions, asked_schedule


@click.command("build-engine", short_help="Build a TensorRT engine on this machine.")
@bundle_argument
@click.option("--fp16", "precision", flag_value=Precision.FP16.value, help="Build the half-precision trunk.")
@click.option(
    "--fp32",
    "precision",
    flag_value=Precision.FP32.value,
    default=Precision.FP32.value,
    help="Build the single-precision trunk (the default).",
)
@click.option("--bf16", "precision", flag_value=Precision.BF16.value, help="Build the bfloat16 trunk.")
@click.option("--int8", "precision", flag_value=Precision.INT8.value, help="Build the quantized trunk.")
@schedule_options
@click.option(
    "--target",
    type=click.Choice([target.value for target in Target]),
    default="this-machine",
    show_default=True,
    help="Where the engine shall run. A platform is refused anywhere but on itself.",
)
@click.option(
    "--flavour",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    help="Which TensorRT.  [default: TensorRT where it is installed, else TensorRT-RTX]",
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TensorRT's measurements: read where the file exists, written back after the build.",
)
@click.option(
    "--builder-optimization-level",
    "optimization_level",
    type=click.IntRange(0, 5),
    help="Higher builds longer, and the engine may run faster.  [default: TensorRT's]",
)
@click.option(
    "--pool-limit",
    "pool_limits",
    multiple=True,
    metavar="NAME:SIZE",
    help="A memory pool's limit, workspace:512MiB for example; may be given several times.",
)
@click.option("--max-aux-streams", type=click.IntRange(0, 2**31 - 1), metavar="N", help="0 takes the least memory.")
@click.option(
    "--hardware-compatibility-level",
    "hardware_compatibility",
    type=click.Choice([level.value for level in HardwareCompatibility]),
    default="none",
    show_default=True,
    help="Which other GPUs the engine shall run on. Not on Jetson or DRIVE.",
)
@click.option("--version-compatible", is_flag=True, help="An engine that TensorRT's next major version runs too.")
@click.option("--force", is_flag=True, help="Build even if the bundle holds this engine already.")
@click.option("--verbose", is_flag=True, help="Print TensorRT's log on stderr.")
@json_option
def build_engine_command(bundle: Path, **options: Any) -> dict[str, Any]:
    """Build TensorRT engines of BUNDLE's trunk and of its prepare.onnx on this machine, with their build record.

    An engine runs on the kind of GPU and the TensorRT version it was built with: build on the target.
    TensorRT-RTX builds portable engines on any machine, with or without a GPU. Precision is in the graph
    (strongly typed); the build record counts the convolutions by their type.

    An engine that the bundle holds already, of the same graphs, TensorRT, device and flags, is not built again.
    """
    config, target, machine = _config(options), Target(options["target"]), this_machine()
    precision = Precision(options["precision"])
    opened = Bundle.open(bundle)
    asked = asked_schedule(opened, "tensorrt", precision, ScheduleOptions.of(options))
    schedule = asked.schedule if asked is not None else default_schedule(opened.manifest)
    if options["memory"] is not None:
        config = replace(config, sub_batch=schedule.sub_batch)
    if config.sub_batch > schedule.sub_batch:
        raise click.UsageError(
            f"at levels {schedule.levels} at most {schedule.sub_batch} phases go together; "
            f"a sub-batch of {config.sub_batch} is never filled"
        )
    trunk_record = opened.manifest.trunk(schedule.levels, schedule.lowering)
    graph, grid = opened.trunk_graph(trunk_record, precision), opened.manifest.grid(trunk_record)
    inputs = BuildInputs(graph.relative_to(opened.path).as_posix(), opened.manifest.prepare, opened.manifest.weights)
    config = replace(config, convolutions=trunk_record.convolutions[precision])
    trtexec = trtexec_lines(str(graph), "windows", (3, *grid.crop_size), config)

    check_machine(target, machine, trtexec)
    if config.flavour is None and target is Target.RTX:
        config = replace(config, flavour=Flavour.TENSORRT_RTX)
    if config.flavour is not None:
        check_flavour(target, machine, config.flavour)
    flavour, trt = import_tensorrt(config.flavour)
    check_flavour(target, machine, flavour)
    built_with = (flavour, str(trt.__version__))
    config = replace(config, flavour=flavour)
    check_build(target, machine, config, built_with, trtexec)
    identity = identity_of_build(opened, inputs, config, built_with, machine)
    held = None if options["force"] else held_engine(opened, identity)
    if held is not None:
        engine, record = held
        note("the bundle holds this engine already; --force builds it again")
        return _shown(
            {"engine": str(opened.file(engine.engine)), "cached": True, **builtins_from_record(record)},
            options["as_json"],
        )

    opened.check_writable()
    if config.timing_cache is not None:
        if flavour is Flavour.TENSORRT_RTX:
            note(f"TensorRT-RTX has no timing cache: {config.timing_cache} is neither read nor written")
        else:
            check_timing_cache(config.timing_cache)
    show = _build_verbosely if options["verbose"] else _build
    trunk = show(graph, config)
    prepare = show(opened.file(inputs.prepare), replace(config, precision=None, convolutions=None, sub_batch=1))
    record = record_of_build(identity, config, target, (trunk, prepare), __version__)
    stored = opened.with_engine(flavour, precision, schedule, plan=trunk.plan, prepare=prepare.plan, record=record)
    engine = stored.manifest.engines[-1]
    return _shown(
        {"engine": str(stored.file(engine.engine)), "cached": False, **builtins_from_record(record)}, options["as_json"]
    )


def _config(options: dict[str, Any]) -> BuildConfig:
    flavour = options["flavour"]
    return BuildConfig(
        precision=Precision(options["precision"]),
        sub_batch=options["sub_batch"] or 1,
        flavour=Flavour(flavour.replace("-", "_")) if flavour else None,
        optimization_level=options["optimization_level"],
        pool_limits=_pool_limits(options["pool_limits"]),
        max_aux_streams=options["max_aux_streams"],
        hardware_compatibility=HardwareCompatibility(options["hardware_compatibility"]),
        version_compatible=options["version_compatible"],
        timing_cache=options["timing_cache"],
    )


def _pool_limits(texts: tuple[str, ...]) -> dict[MemoryPool, int]:
    known = {pool.value: pool for pool in MemoryPool}
    limits: dict[MemoryPool, int] = {}
    for text in texts:
        name, colon, size = text.partition(":")
        if not colon:
            raise click.UsageError(f"--pool-limit is NAME:SIZE, workspace:512MiB for example; received {text!r}")
        if name not in known:
            raise click.UsageError(f"--pool-limit knows the pools {', '.join(known)}; received {name!r}")
        if known[name] in limits:
            raise click.UsageError(f"--pool-limit gives {name} twice")
        limits[known[name]] = MemoryType().convert(size, None, None)
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
        ("built with", f"{document['backend']} {document['version']} in {document['build_s']:.1f} s"),
        ("convolutions", _counts(document["convolutions"])),
        ("computes in", effective if isinstance(effective, str) else _counts(effective)),
        ("largest input", " x ".join(map(str, document["input_shape"]))),
        ("size", f"{document['plan_bytes'] / 1e6:.1f} MB, prepare {document['prepare_plan_bytes'] / 1e6:.1f} MB"),
    ]
    print_table(("engine", document["engine"]), rows)
    return document


def _counts(types: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in types.items())
