"""``smp-deploy inspect``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click
import msgspec

from engines.bundle.bundle import Bundle
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.options import bundle_argument, json_option
from smp_deploy.cli.summaries import TRUNK_COLUMNS, bundle_rows, trunk_rows, tuning_summaries


@click.command("inspect", short_help="Show what a bundle holds.")
@bundle_argument
@click.option("--classes", "with_classes", is_flag=True, help="Also list the classes and their colours.")
@json_option
def inspect_command(bundle: Path, with_classes: bool, as_json: bool) -> None:
    """Show what BUNDLE holds, after verifying every file: network, sizes, phases, graphs, engines, files."""
    opened = Bundle.open(bundle)
    graphs = _graph_summaries(opened)
    if as_json:
        print_json({"manifest": msgspec.to_builtins(opened.manifest), "graphs": graphs})
        return
    manifest = opened.manifest
    print_table(("bundle", str(bundle)), bundle_rows(opened))
    print_table(TRUNK_COLUMNS, trunk_rows(opened))
    if graphs:
        rows = [(name, graph["inputs"], graph["outputs"], graph["operators"]) for name, graph in graphs.items()]
        print_table(("graph", "inputs", "outputs", "operators"), rows)
    if manifest.engines:
        engines = [
            (e.engine, e.backend, e.precision.value, e.schedule.levels, e.schedule.lowering.value, e.schedule.sub_batch)
            for e in manifest.engines
        ]
        print_table(("engine", "backend", "precision", "levels", "lowering", "sub-batch"), engines)
    if manifest.tunings:
        print_table(("tuned on", "backend", "precision", "fastest", "ms a frame"), tuning_summaries(opened))
    print_table(("file", "bytes", "SHA-256"), [(name, f.size, f.sha256[:16]) for name, f in manifest.files.items()])
    if with_classes:
        print_table(("label", "class", "colour (RGB)"), [(i, c.name, c.color) for i, c in enumerate(manifest.classes)])
    print_table(("written by", "version"), list(manifest.tools.items()))


def _graph_summaries(bundle: Bundle) -> dict[str, dict[str, str]] | None:
    """Inputs, outputs and operators of every graph; ``None`` where the onnx package is absent, as on a vehicle."""
    try:
        from converters.graphs.summary import summaries_from_bundle
    except ImportError:
        note("graph summaries need the onnx package: pip install 'smp-deploy[export]'")
        return None
    return {name: dataclasses.asdict(summary) for name, summary in summaries_from_bundle(bundle).items()}
