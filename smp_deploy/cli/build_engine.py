"""``smp-deploy build-engine``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from engines.bundle import Bundle
from engines.manifest import Flavour, Lowering, Precision
from engines.schedules import resolved_schedule
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.options import bundle_argument, json_option, schedule_options


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
@schedule_options
@click.option(
    "--flavour",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    help="Which TensorRT.  [default: TensorRT where it is installed, else TensorRT-RTX]",
)
@json_option
def build_engine_command(
    bundle: Path,
    precision: str,
    levels: int | None,
    lowering: str | None,
    sub_batch: int,
    flavour: str | None,
    as_json: bool,
) -> dict[str, Any]:
    """Build a TensorRT engine of BUNDLE's trunk on this machine and keep it in the bundle with its build record.

    An engine runs on the kind of GPU and the TensorRT version it was built with: build on the target.
    TensorRT-RTX builds portable engines on any machine, with or without a GPU. Precision is in the graph
    (strongly typed); the build record counts the convolutions by their type.
    """
    from engines.backends.tensorrt.builder import BuildConfig, engine_from_onnx

    opened = Bundle.open(bundle)
    schedule = resolved_schedule(opened.manifest, levels, sub_batch, Lowering(lowering) if lowering else None)
    if sub_batch > schedule.sub_batch:
        raise click.UsageError(
            f"at levels {schedule.levels} at most {schedule.sub_batch} phases go together; "
            f"a sub-batch of {sub_batch} is never filled"
        )
    wanted = Precision(precision)
    trunk = opened.manifest.trunk(schedule.levels, schedule.lowering)
    graph = opened.trunk_graph(trunk, wanted)
    note(f"building {graph.name} for sub-batches of up to {sub_batch}")
    config = BuildConfig(wanted, sub_batch, Flavour(flavour.replace("-", "_")) if flavour else None)
    built = engine_from_onnx(graph, config)
    files = opened.manifest.files
    record = {
        "flavour": built.flavour.value,
        "version": built.version,
        "precision": wanted.value,
        "convolutions": built.precisions,
        "strongly_typed": True,
        "input_shape": built.input_shape,
        "graph": graph.name,
        "graph_sha256": files[trunk.graphs[wanted]].sha256,
        "weights_sha256": files[opened.manifest.weights].sha256,
        "plan_bytes": len(built.plan),
        "build_s": built.build_s,
    }
    stored = opened.with_engine(built.flavour, wanted, schedule, plan=built.plan, record=record)
    engine = stored.manifest.engines[-1].engine
    document: dict[str, Any] = {"engine": str(stored.file(engine)), **record}
    if as_json:
        print_json(document)
    else:
        rows = [
            ("built with", f"{built.flavour.value} {built.version} in {built.build_s:.1f} s"),
            ("convolutions", ", ".join(f"{count} {kind}" for kind, count in built.precisions.items())),
            ("largest input", " x ".join(map(str, built.input_shape))),
            ("size", f"{len(built.plan) / 1e6:.1f} MB"),
        ]
        print_table(("engine", document["engine"]), rows)
    return document
