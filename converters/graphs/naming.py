"""Names that a person can read, and nothing of the machine that exported.

The exporter names nodes after its own intermediate forms and keeps stack traces as metadata. Here every node is
named after the module that computes it, ``layer1.0.conv1/Conv``, its output ``layer1.0.conv1/Conv_output``, and
its constants after the node and what they are for.
"""

from __future__ import annotations

import ast
from collections import Counter

import onnx_ir as ir

from converters.graphs.modules import PREDICTIONS

_SCOPES = "pkg.torch.onnx.name_scopes"
_ROOT = "network."


def name_for_people(model: ir.Model) -> None:
    """Rename nodes, values and initializers of a model in place, and drop all metadata."""
    graph = model.graph
    kept = {value.name for value in (*graph.inputs, *graph.outputs)}
    taken: Counter[str] = Counter()
    for node in graph:
        node.name = _unique(f"{_scope(node)}{node.op_type}", taken)
        for index, output in enumerate(node.outputs):
            if output.name not in kept:
                output.name = f"{node.name}_output" + (f"_{index}" if index else "")
            output.metadata_props.clear()
        node.metadata_props.clear()
        node.doc_string = None
    _name_initializers(graph)
    for value in (*graph.inputs, *graph.outputs):
        value.metadata_props.clear()
    graph.metadata_props.clear()
    model.metadata_props.clear()
    graph.name = "smp"
    graph.doc_string = model.doc_string = None
    model.producer_name, model.producer_version = "smp-deploy", None


def _name_initializers(graph: ir.Graph) -> None:
    taken: Counter[str] = Counter()
    renamed: dict[ir.Value, str] = {}
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is None or value.name not in graph.initializers or value in renamed:
                continue
            renamed[value] = _unique(_initializer_name(node, index, value), taken)
    graph.initializers.clear()
    for value, name in renamed.items():
        value.name = name
        value.metadata_props.clear()
        graph.initializers[name] = value


_ROLES = {
    "Clip": ("", "min", "max"),
    "Pad": ("", "pads", "value", "axes"),
    "Reshape": ("", "shape"),
    "Resize": ("", "roi", "scales", "sizes"),
    "Slice": ("", "starts", "ends", "axes", "steps"),
    "Squeeze": ("", "axes"),
    "Unsqueeze": ("", "axes"),
}


def _initializer_name(node: ir.Node, index: int, value: ir.Value) -> str:
    """Parameters keep their state-dict names; constants (``val_57`` and the like) are named after their role."""
    if "." in str(value.name):
        return str(value.name).removeprefix(_ROOT)
    roles = _ROLES.get(node.op_type, ())
    return f"{node.name}/{roles[index] if index < len(roles) else f'constant_{index}'}"


def _module(node: ir.Node) -> str:
    """``network.layer1.0.conv1`` for a node that this module computes, empty for one outside every module."""
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
    return scopes[-2] if len(scopes) > 1 else ""


def _scope(node: ir.Node) -> str:
    """``layer1.0.conv1/``, without the network's own name unless a module would pass for the trunk's predictions."""
    module = _module(node)
    path = f"{module}.".removeprefix(_ROOT).removesuffix(".")
    return f"{module if path == PREDICTIONS else path}/" if path else ""


def _unique(name: str, taken: Counter[str]) -> str:
    taken[name] += 1
    return name if taken[name] == 1 else f"{name}_{taken[name] - 1}"
