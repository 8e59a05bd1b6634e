"""What the graphs of a bundle are made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from engines.bundle.bundle import Bundle
from engines.errors import MissingDependency


@dataclass(frozen=True)
class GraphSummary:
    """One graph in three lines."""

    inputs: str
    """Name, element type and shape of each: ``windows float (phases, 3, 67, 99)``."""
    outputs: str
    operators: str
    """How often each occurs, the most frequent first."""


def graph_summaries(bundle: Bundle) -> dict[str, GraphSummary]:
    """Every graph of a bundle by its file name. Raises :class:`MissingDependency` without onnx, as on a vehicle."""
    try:
        import onnx
    except ImportError as error:
        raise MissingDependency("onnx", "export") from error
    manifest = bundle.manifest
    trunks = (name for trunk in manifest.trunks for name in trunk.graphs.values())
    summaries = {}
    for name in (manifest.model, manifest.prepare, *trunks):
        graph = onnx.load(bundle.file(name), load_external_data=False).graph
        operators = Counter(node.op_type for node in graph.node)
        summaries[name] = GraphSummary(
            inputs=", ".join(_shown(onnx, value) for value in graph.input),
            outputs=", ".join(_shown(onnx, value) for value in graph.output),
            operators=", ".join(f"{count} {operator}" for operator, count in operators.most_common()),
        )
    return summaries


def _shown(onnx: Any, value: Any) -> str:
    tensor = value.type.tensor_type
    dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
    shape = ", ".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
    return f"{value.name} {dtype} ({shape})"
