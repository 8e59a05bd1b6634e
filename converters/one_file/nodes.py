"""Making graphs node by node, with names that are unique over all graphs of a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

FLOAT, INT32, INT64, UINT8, BOOL = (
    ir.DataType.FLOAT,
    ir.DataType.INT32,
    ir.DataType.INT64,
    ir.DataType.UINT8,
    ir.DataType.BOOL,
)


class Names:
    """Hands out names of nodes and of values, which may be alike.

    TensorRT drops outputs of nodes of one name, also where they lie in different graphs.
    """

    def __init__(self) -> None:
        self._taken: dict[str, set[str]] = {"node": set(), "value": set()}

    def node(self, name: str) -> str:
        """The name, with a number where a node has it."""
        return self._free("node", name)

    def value(self, name: str) -> str:
        """The name, with a number where a value has it."""
        return self._free("value", name)

    def _free(self, kind: str, name: str) -> str:
        free, number = name, 0
        while free in self._taken[kind]:
            number += 1
            free = f"{name}_{number}"
        self._taken[kind].add(free)
        return free


class Nodes:
    """The nodes and constants of one graph that is being made."""

    def __init__(self, names: Names) -> None:
        self.names = names
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []

    def constant(self, name: str, array: NDArray[Any] | list[int]) -> ir.Value:
        """An initializer; a list becomes int64."""
        content = array if isinstance(array, np.ndarray) else np.array(array, np.int64)
        free = self.names.value(name)
        value = ir.val(free, const_value=ir.tensor(content, name=free))
        self.initializers.append(value)
        return value

    def add(self, kind: str, inputs: Iterable[ir.Value | None], name: str, **attributes: Any) -> ir.Value:
        """A node; its one result."""
        result = ir.val(self.names.value(f"{name}_output"))
        made = ir.node(kind, list(inputs), attributes, name=self.names.node(name), outputs=[result])
        self.nodes.append(made)
        return result

    def cast(self, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
        """The value in another type."""
        return self.add("Cast", [value], name, to=dtype.value)

    def graph(self, name: str, inputs: list[ir.Value], outputs: list[ir.Value]) -> ir.Graph:
        """All of it as a graph."""
        return ir.Graph(inputs, outputs, nodes=self.nodes, initializers=self.initializers, name=name)


def typed(value: ir.Value, dtype: ir.DataType, shape: Iterable[int]) -> ir.Value:
    """The value with its type and shape, as ends of graphs need them."""
    value.type, value.shape = ir.TensorType(dtype), ir.Shape(list(shape))
    return value
