"""Nodes and constants that are added to a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.graphs.identity import metadata_of


def added_node(
    kind: str, inputs: list[ir.Value], name: str, dtype: ir.DataType, owner: ir.Node, **attributes: int
) -> ir.Node:
    """A node of one result in the shape of its first input, not yet in a graph.

    Args:
        kind: the operator.
        inputs: what it reads.
        name: of the node; where it is taken, ``NameFixPass`` appends a number.
        dtype: of the result.
        owner: the node whose work it does a part of.
        attributes: of the operator.
    """
    result = ir.val(f"{name}_output", dtype, inputs[0].shape)
    return ir.node(kind, inputs, attributes, name=name, outputs=[result], metadata_props=metadata_of(owner))


def added_constant(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """A new initializer; a number is appended to its name where that is taken."""
    names = (name, *(f"{name}_{number}" for number in range(1, len(graph.initializers) + 1)))
    free = next(candidate for candidate in names if candidate not in graph.initializers)
    value = ir.val(free, const_value=ir.tensor(array, name=free))
    graph.register_initializer(value)
    return value
