"""``smp-deploy inspect``."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import msgspec
import typer

from engines.bundle.bundle import Bundle
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.options import BundleArgument, JsonOption
from smp_deploy.cli.summaries import TRUNK_COLUMNS, bundle_rows, trunk_rows, tuning_summaries


def inspect_command(
    bundle: BundleArgument,
    with_classes: Annotated[bool, typer.Option("--classes", help="Also list the classes and their colours.")] = False,
    as_json: JsonOption = False,
) -> None:
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
            (e.engine, e.flavour.value, e.precision.value, e.levels, e.lowering.value, e.sub_batch)
            for e in manifest.engines
        ]
        print_table(("engine", "flavour", "precision", "levels", "lowering", "sub-batch"), engines)
    if manifest.tunings:
        print_table(("tuned on", "backend", "precision", "fastest", "ms a frame"), tuning_summaries(opened))
    print_table(("file", "bytes", "SHA-256"), [(name, f.size, f.sha256[:16]) for name, f in manifest.files.items()])
    if with_classes:
        print_table(("label", "class", "colour (RGB)"), [(i, c.name, c.color) for i, c in enumerate(manifest.classes)])
    print_table(("written by", "version"), list(manifest.tools.items()))


def _graph_summaries(bundle: Bundle) -> dict[str, dict[str, Any]] | None:
    """Inputs, outputs and operators of every graph; ``None`` where the onnx package is absent, as on a vehicle."""
    try:
        import onnx
    except ImportError:
        note("graph summaries need the onnx package: pip install 'smp-deploy[export]'")
        return None
    manifest = bundle.manifest
    summaries = {}
    trunks = (name for trunk in manifest.trunks for name in trunk.graphs.values())
    for name in (manifest.model, manifest.prepare, *trunks):
        graph = onnx.load(bundle.file(name), load_external_data=False).graph
        operators = Counter(node.op_type for node in graph.node)
        summaries[name] = {
            "inputs": ", ".join(_shown(onnx, value) for value in graph.input),
            "outputs": ", ".join(_shown(onnx, value) for value in graph.output),
            "operators": ", ".join(f"{count} {operator}" for operator, count in operators.most_common()),
        }
    return summaries


def _shown(onnx: Any, value: Any) -> str:
    tensor = value.type.tensor_type
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = ", ".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
    return f"{value.name} {dtype} ({shape})"
