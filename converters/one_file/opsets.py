"""A packed file in opset 17, which TensorRT 8.5 and 8.6 read: lower than what the exporter writes.

What an operator does seldom differs between two opsets: later ones allow more types, or take as an input what was an
attribute. The few operators that a network's graph meets are written anew here; whether the rest is valid, the checker
of ONNX says, and ONNX Runtime whether it still gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir

from engines.errors import NetworkError

LOWEST_OPSET = 17
"""What can be written below the bundle's own."""

_IR_VERSION = 8
"""Of ONNX 1.12 and 1.13, which those versions of TensorRT hold."""

_WITH_AXES_ATTRIBUTE = {
    *("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"),
    *("ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"),
}
"""Opset 18 made their axes an input; of ReduceSum opset 13 did."""


def lower(model: ir.Model) -> None:
    """Write a model in opset :data:`LOWEST_OPSET`, in place.

    Raises :class:`NetworkError` for an operator that has no such form there, or not for its types.
    """
    for graph in _graphs(model.graph):
        for node in graph:
            _lower_node(node)
        graph.opset_imports[""] = LOWEST_OPSET
    model.ir_version = _IR_VERSION


def _graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.type is ir.AttributeType.GRAPH:
                yield from _graphs(attribute.as_graph())


def _lower_node(node: ir.Node) -> None:
    if node.domain:
        raise NetworkError(f"{node.name} is a {node.domain}.{node.op_type}, which opset {LOWEST_OPSET} does not have")
    if node.op_type in _WITH_AXES_ATTRIBUTE and len(node.inputs) > 1:
        if (axes := node.inputs[1]) is not None:
            node.attributes["axes"] = ir.AttrInt64s("axes", [int(axis) for axis in _constant(node, axes)])
        node.resize_inputs(1)
    elif node.op_type == "Split":
        # Without it opset 17 splits evenly into as many as there are results.
        node.attributes.pop("num_outputs", None)
    try:
        schema = onnx.defs.get_schema(node.op_type, LOWEST_OPSET, "")
    except onnx.defs.SchemaError as error:
        raise NetworkError(
            f"{node.name} is a {node.op_type}, which came after opset {LOWEST_OPSET}; leave opset= out"
        ) from error
    if unknown := sorted(set(node.attributes) - set(schema.attributes)):
        raise NetworkError(
            f"{node.name}, a {node.op_type}, has {', '.join(unknown)}, which opset {LOWEST_OPSET} does not know; leave "
            "opset= out"
        )
    if len(node.inputs) > schema.max_input:
        raise NetworkError(
            f"{node.name}, a {node.op_type}, has {len(node.inputs)} inputs, and at most {schema.max_input} in opset "
            f"{LOWEST_OPSET}; leave opset= out"
        )


def _constant(node: ir.Node, value: ir.Value) -> np.ndarray:
    if value.const_value is None:
        raise NetworkError(f"{node.name}, a {node.op_type}, computes its axes, which opset {LOWEST_OPSET} cannot")
    return value.const_value.numpy().reshape(-1)
