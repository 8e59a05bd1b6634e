"""Names that a person can read, and nothing of the machine that exported.

The exporter names nodes after its own intermediate forms and keeps stack traces as metadata. Here every node is
named after the module that computes it, ``layer1.0.conv1/Conv``, its output ``layer1.0.conv1/Conv_output``, and
its constants after the node and what they are for. Only :mod:`converters.graphs.identity` says whose a node is.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common
from torch import nn

from converters.graphs.identity import Part, identities_from_scopes, module_of, part_of


def name_for_people(model: ir.Model, stage: nn.Module) -> None:
    """Rename nodes, values and initializers of a model in place; of all metadata leave whose each node is.

    Args:
        model: that ``torch.onnx`` made of the stage.
        stage: a module of :mod:`converters.graphs.stages`.
    """
    identities = identities_from_scopes(model, stage)
    graph, outputs = model.graph, set(model.graph.outputs)
    common.ClearMetadataAndDocStringPass()(model)
    common.RemoveUnusedNodesPass()(model)
    for node in graph:
        node.metadata_props.update(identities[node].metadata)
        node.name = None
        for output in node.outputs:
            output.metadata_props.clear()
            output.name = output.name if output in outputs else None
    common.NameFixPass(_Names())(model)
    _name_initializers(graph, stage)
    # A parameter may be called as an input or an output is.
    common.NameFixPass()(model)
    for value in (*graph.inputs, *graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    graph.name = "smp"
    graph.doc_string = model.doc_string = None
    model.producer_name, model.producer_version = "smp-deploy", None


class _Names:
    """What nodes and values are called; the pass that asks appends numbers where a name is taken."""

    def generate_node_name(self, node: ir.Node) -> str:
        """``layer1.0.conv1/Conv``, ``predictions/ArgMax``, or ``Add`` for a node outside every module."""
        part = part_of(node)
        scope = module_of(node) if part is Part.NETWORK else part.value
        return f"{scope}/{node.op_type}" if scope else node.op_type

    def generate_value_name(self, value: ir.Value) -> str:
        """``layer1.0.conv1/Conv_output``, and with a number behind it for further outputs."""
        producer, index = value.producer(), value.index()
        if producer is None:
            return str(value.name)
        return f"{producer.name}_output" + (f"_{index}" if index else "")


def _name_initializers(graph: ir.Graph, stage: nn.Module) -> None:
    """Parameters get their names in the network's state dict, constants (``val_57``) are named after their role."""
    stored = {name for name, _ in (*stage.named_parameters(remove_duplicate=False), *stage.named_buffers())}
    names: dict[ir.Value, str] = {}
    taken: set[str] = set()
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is None or not value.is_initializer() or value in names:
                continue
            name = _state_name(str(value.name)) if value.name in stored else f"{node.name}/{_role(node, index)}"
            names[value] = next(n for n in (name, *(f"{name}_{i}" for i in range(1, len(names) + 1))) if n not in taken)
            taken.add(names[value])
    ir.convenience.rename_values(list(names), list(names.values()))


def _state_name(name: str) -> str:
    """``layer1.0.conv1.weight`` of the network's parameters, ``normalize.scale`` of another part's."""
    part, _, path = name.partition(".")
    return path if part == Part.NETWORK.value else name


_ROLES = {
    "Clip": ("", "min", "max"),
    "Pad": ("", "pads", "value", "axes"),
    "Reshape": ("", "shape"),
    "Resize": ("", "roi", "scales", "sizes"),
    "Slice": ("", "starts", "ends", "axes", "steps"),
    "Squeeze": ("", "axes"),
    "Unsqueeze": ("", "axes"),
}


def _role(node: ir.Node, index: int) -> str:
    """What an operator needs a constant for."""
    roles = _ROLES.get(node.op_type, ())
    return roles[index] if index < len(roles) else f"constant_{index}"
