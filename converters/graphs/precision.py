"""Graphs in half precision between float casts.

The network inside a graph computes in the target type; what comes in and goes out, all that stands around the
network, and the modules that are to be kept in single precision, stay in float. Working on the exported graph means
that one export serves every precision, and that weights folded in single precision are rounded once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from converters.graphs.adding import added_constant, added_node
from converters.graphs.identity import network_nodes
from converters.graphs.modules import kept_nodes
from converters.graphs.numbers import around, numbers_beyond, sentences
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


def cast_network(model: ir.Model, precision: Precision, keep: Collection[str] = ()) -> list[str]:
    """Make the network of a single-precision model compute in FP16 or BF16, in place.

    An operator that ONNX does not have in the type stays in single precision, and so does one with a number that the
    type cannot hold, with what computes and what takes its result: the 1e-12 that keeps a norm away from zero is zero
    itself in half precision.

    Args:
        model: with the identities of its nodes.
        precision: of the network.
        keep: modules that stay in single precision, between casts. Sums and the like, which belong to no module, stay
            with them where they take a result of theirs.

    Returns:
        A sentence for each number that the type cannot hold.
    """
    target, opset = _TYPES[precision], model.opset_imports[""]
    check_opset(precision, opset)
    network = network_nodes(model)
    beyond = numbers_beyond(network, target)
    kept = kept_nodes(network, keep, around(beyond))
    inside = [node for node in network if node not in kept]
    halved = {value: node for node in inside for value in _results_in(node, target, opset)}
    casts: dict[ir.Value, ir.Value] = {}
    weights: dict[ir.Value, ir.Value] = {}
    for node in inside:
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype is not _FLOAT or not _takes(node, index, target, opset):
                continue
            if value.const_value is not None:
                node.replace_input_with(index, _converted(model.graph, value, target, weights))
            elif value not in halved:
                node.replace_input_with(index, _cast(value, target, casts, node))
        if node.op_type == "Cast" and node.outputs[0] in halved:
            node.attributes["to"] = ir.AttrInt64("to", target.value)
    for value in halved:
        # Not its dtype: copies of a model share the objects of their types.
        value.type = ir.TensorType(target)
    nodes = set(inside)
    for value in halved:
        _float_outside(model.graph, value, nodes, opset)
    common.RemoveUnusedNodesPass()(model)
    common.NameFixPass()(model)
    return [*sentences(beyond, precision, keep), *_overflowing(weights, precision)]


def _takes(node: ir.Node, index: int, dtype: ir.DataType, opset: int) -> bool:
    """Whether an operator takes this type at this input: the scales of a Resize, say, are always float."""
    formal = _formal(onnx.defs.get_schema(node.op_type, opset, node.domain).inputs, index)
    return _name_of(dtype) in formal.types


def _results_in(node: ir.Node, dtype: ir.DataType, opset: int) -> list[ir.Value]:
    """The float results that an operator gives in this type where it takes it.

    That are those whose type in the schema is the type of an input, ``T``, and allows it; a Cast gives what it is told.
    What a type of its own or an attribute says, as for the mean of a layer norm or a tensor of one value, stays float.
    """
    schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    given = {
        _formal(schema.inputs, index).type_str
        for index, value in enumerate(node.inputs)
        if value is not None and value.dtype is _FLOAT and _takes(node, index, dtype, opset)
    }
    if node.op_type == "Cast":
        return [value for value in node.outputs if value.dtype is _FLOAT]
    return [
        value
        for index, value in enumerate(node.outputs)
        if value.dtype is _FLOAT and (formal := _formal(schema.outputs, index)).type_str in given
        if _name_of(dtype) in formal.types
    ]


def _formal(formals: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> onnx.defs.OpSchema.FormalParameter:
    """The last one stands for all further ones."""
    return formals[min(index, len(formals) - 1)]


def _name_of(dtype: ir.DataType) -> str:
    return f"tensor({dtype.name.lower()})"


def _converted(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, known: dict[ir.Value, ir.Value]) -> ir.Value:
    """The initializer in another type, under a name of its own while the old one is still there."""
    if value not in known:
        assert value.const_value is not None
        # A weight that is too large becomes infinite, which is said.
        with np.errstate(over="ignore"):
            array = value.const_value.numpy().astype(dtype.numpy())
        known[value] = added_constant(graph, f"{value.name}.{dtype.name.lower()}", array)
    return known[value]


def _overflowing(weights: Mapping[ir.Value, ir.Value], precision: Precision) -> list[str]:
    """What to say of constants that became infinite."""
    found = []
    for value, converted in weights.items():
        assert value.const_value is not None
        assert converted.const_value is not None
        before, after = value.const_value.numpy(), np.asarray(converted.const_value.numpy(), np.float32)
        if count := int((np.isinf(after) & np.isfinite(before)).sum()):
            found.append(
                f"{count} of {before.size} values of {value.name} are too large for {precision.value} and infinite in "
                "its trunks; keep_fp32= keeps their module in fp32"
            )
    return found


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
