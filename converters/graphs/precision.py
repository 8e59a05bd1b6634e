"""Graphs in half precision between float casts.

The network inside a graph computes in the target type; what comes in and goes out, all that stands around the
network, and the modules that are to be kept in single precision, stay in float. Working on the exported graph means
that one export serves every precision, and that weights folded in single precision are rounded once.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from converters.graphs.adding import added_constant, added_node
from converters.graphs.identity import network_nodes
from converters.graphs.modules import kept_nodes
from engines.errors import NetworkError
from engines.schedules.schedule import Precision

_TYPES = {Precision.FP16: ir.DataType.FLOAT16, Precision.BF16: ir.DataType.BFLOAT16}
_FLOAT = ir.DataType.FLOAT

BF16_OPSET = 22
"""The first opset whose convolutions take bfloat16."""


def check_opset(precision: Precision, opset: int) -> None:
    """Raise :class:`NetworkError` for a precision that ONNX does not have at this opset."""
    if precision is Precision.BF16 and opset < BF16_OPSET:
        raise NetworkError(
            f"bf16 needs opset {BF16_OPSET} or later, with which ONNX's convolutions take it; received opset {opset}: "
            f"export with opset={BF16_OPSET}"
        )


def cast_network(model: ir.Model, precision: Precision, keep: Collection[str] = ()) -> None:
    """Make the network of a single-precision model compute in FP16 or BF16, in place.

    Args:
        model: with the identities of its nodes.
        precision: of the network.
        keep: modules that stay in single precision, between casts. Sums and the like, which belong to no module, stay
            with them where they take a result of theirs.
    """
    target, opset = _TYPES[precision], model.opset_imports[""]
    check_opset(precision, opset)
    network = network_nodes(model)
    kept = kept_nodes(network, keep)
    inside = [node for node in network if node not in kept]
    nodes = set(inside)
    casts: dict[ir.Value, ir.Value] = {}
    weights: dict[ir.Value, ir.Value] = {}
    for node in inside:
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype is not _FLOAT or not _takes(node, index, target, opset):
                continue
            if value.const_value is not None:
                node.replace_input_with(index, _converted(model.graph, value, target, weights))
            elif value.producer() not in nodes:
                node.replace_input_with(index, _cast(value, target, casts, node))
        if node.op_type == "Cast" and node.attributes["to"].as_int() == _FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", target.value)
    outputs = [value for node in inside for value in node.outputs if value.dtype is _FLOAT]
    for value in outputs:
        # Not its dtype: copies of a model share the objects of their types.
        value.type = ir.TensorType(target)
    for value in outputs:
        _float_outside(model.graph, value, nodes, opset)
    common.RemoveUnusedNodesPass()(model)
    common.NameFixPass()(model)


def _takes(node: ir.Node, index: int, dtype: ir.DataType, opset: int) -> bool:
    """Whether an operator takes this type at this input: the scales of a Resize, say, are always float."""
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    formal = schema.inputs[min(index, len(schema.inputs) - 1)]
    return f"tensor({dtype.name.lower()})" in formal.types


def _converted(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, known: dict[ir.Value, ir.Value]) -> ir.Value:
    """The initializer in another type, under a name of its own while the old one is still there."""
    if value not in known:
        assert value.const_value is not None
        # A weight that is too large becomes infinite: checks find it in what the graph gives.
        with np.errstate(over="ignore"):
            array = value.const_value.numpy().astype(dtype.numpy())
        known[value] = added_constant(graph, f"{value.name}.{dtype.name.lower()}", array)
    return known[value]


def _cast(value: ir.Value, dtype: ir.DataType, known: dict[ir.Value, ir.Value], reader: ir.Node) -> ir.Value:
    """A value in another type, cast before the first node that reads it so."""
    if value not in known:
        cast = added_node("Cast", [value], f"{value.name}/Cast", dtype, reader, to=dtype.value)
        reader.prepend(cast)
        known[value] = cast.outputs[0]
    return known[value]


def _float_outside(graph: ir.Graph, value: ir.Value, inside: set[ir.Node], opset: int) -> None:
    """Cast a value of the network back to float for all that is not of the network."""
    producer = value.producer()
    assert producer is not None
    outside = [
        (user, index)
        for user, index in value.uses()
        if user not in inside or not _takes(user, index, value.dtype or _FLOAT, opset)
    ]
    is_output = value.is_graph_output()
    if not outside and not is_output:
        return
    cast = added_node("Cast", [value], f"{producer.name}/Cast", _FLOAT, producer, to=_FLOAT.value)
    result = cast.outputs[0]
    producer.append(cast)
    for user, index in outside:
        user.replace_input_with(index, result)
    if is_output:
        # The name of an output is part of the bundle's format.
        result.name, value.name = value.name, f"{producer.name}_output"
        graph.outputs[graph.outputs.index(value)] = result
