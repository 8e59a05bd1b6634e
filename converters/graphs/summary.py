"""What the graphs of a bundle take, give and consist of, in words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from converters.graphs.reading import graph_from_file
from engines.bundle.bundle import Bundle


@dataclass(frozen=True)
class GraphSummary:
    """One graph."""

    inputs: str
    """``windows float (phases, 3, 67, 99)``, separated by commas."""
    outputs: str
    operators: str
    """``21 Conv, 17 Relu``: most frequent first, of one count in the order of the graph."""


def summary_from_model(model: ir.Model) -> GraphSummary:
    """The summary of one model; its weights are not read."""
    operators = Counter(node.op_type for node in model.graph)
    return GraphSummary(
        inputs=", ".join(map(_shown, model.graph.inputs)),
        outputs=", ".join(map(_shown, model.graph.outputs)),
        operators=", ".join(f"{count} {operator}" for operator, count in operators.most_common()),
    )


def summaries_from_bundle(bundle: Bundle) -> dict[str, GraphSummary]:
    """By file name: the summary of every graph of a bundle."""
    manifest = bundle.manifest
    trunks = (name for trunk in manifest.trunks for name in trunk.graphs.values())
    names = (manifest.model, manifest.prepare, *trunks)
    return {name: summary_from_model(graph_from_file(bundle.file(name))) for name in names}


def _shown(value: ir.Value) -> str:
    dtype = "unknown" if value.dtype is None else value.dtype.name.lower()
    shape = "unknown" if value.shape is None else ", ".join(map(str, value.shape))
    return f"{value.name} {dtype} ({shape})"
