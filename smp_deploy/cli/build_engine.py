"""``smp-deploy build-engine``."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import click

from engines.backends.tensorrt.builder import BuildListener
from engines.backends.tensorrt.settings import BuildOptions, HardwareCompatibility, MemoryPool
from engines.backends.tensorrt.targets import Target
from engines.building import build_engine
from engines.bundle.bundle import Bundle
from engines.schedules.schedule import Precision
from smp_deploy import __version__
from smp_deploy.cli.console import note, print_json, print_table, progress
from smp_deploy.cli.options import MemoryType, bundle_argument, json_option, schedule_options


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
    opened = Bundle.open(bundle)
    named = {name: options[name] for name in ("levels", "lowering", "sub_batch", "memory")}
    if options["memory"] is not None and any(named[name] is not None for name in ("levels", "lowering", "sub_batch")):
        raise click.UsageError("--memory chooses the schedule; leave out --levels, --sub-batch and --lowering")
    with ExitStack() as bars:
        built = build_engine(
            opened,
            options["flavour"],
            options["precision"],
            target=options["target"],
            options=_build_options(options),
            force=options["force"],
            listener=_verbosely if options["verbose"] else partial(_with_progress, bars),
            **named,
        )
    if built.cached:
        note("the bundle holds this engine already; --force builds it again")
    elif options["timing_cache"] is not None and not built.record["timing_cache"]:
        note(f"TensorRT-RTX has no timing cache: {options['timing_cache']} is neither read nor written")
    engine = str(built.bundle.file(built.engine.engine))
    document = {"smp_deploy": __version__, "engine": engine, "cached": built.cached, **built.record}
    return _shown(document, options["as_json"])


def _build_options(options: dict[str, Any]) -> BuildOptions:
    return BuildOptions(
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


def _with_progress(bars: ExitStack, graph: str) -> BuildListener:
    """A bar for a graph, in place of the bar before it."""
    bars.close()
    return BuildListener(on_progress=bars.enter_context(progress(f"building {graph}, percent")))


def _verbosely(graph: str) -> BuildListener:
    # TensorRT's log is the progress: a bar would be torn apart by it.
    note(f"building {graph}")
    return BuildListener(on_log=lambda severity, text: note(f"[{severity}] {text}"))


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
