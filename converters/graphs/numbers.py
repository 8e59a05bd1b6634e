"""Numbers in a graph that a smaller type cannot hold, and what computes with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import onnx_ir as ir

from converters.graphs.identity import module_of
from converters.graphs.layers import OPERATORS
from engines.schedules.schedule import Precision

_WORST = 2.0**-6
"""Relative. Subnormals of half precision are coarse: 1e-6 is off by 5%, 1e-5 by a thousandth."""

_STATISTICS = {"Abs", "GlobalAveragePool", "Mul", "Pow", "Sqrt", "Sub"}
"""Beside reductions: what a norm or a variance is made of before a small number keeps it away from zero."""


def numbers_beyond(nodes: Iterable[ir.Node], dtype: ir.DataType) -> dict[ir.Node, float]:
    """By node: a number that it reads and that is another one, or none, in this type. Infinities stay what they are.

    The weights of layers are no such numbers: a weight of nearly zero may well become zero. Nor are arrays whose
    small elements vanish; but one with an element that becomes infinite is.
    """
    found: dict[ir.Node, float] = {}
    for node in nodes:
        for index, value in enumerate(node.inputs):
            if value is None or value.const_value is None or value.dtype is not ir.DataType.FLOAT:
                continue
            if node.op_type in OPERATORS and index:
                continue
            numbers = value.const_value.numpy().ravel()
            with np.errstate(over="ignore", invalid="ignore"):
                rounded = np.asarray(numbers.astype(dtype.numpy()), np.float32)
                wrong = np.isinf(rounded) & np.isfinite(numbers)
                if numbers.size == 1:
                    wrong |= ~(np.abs(rounded - numbers) <= _WORST * np.abs(numbers)) & np.isfinite(numbers)
            if wrong.any():
                found[node] = float(numbers[wrong][0])
    return found


def around(nodes: Iterable[ir.Node]) -> set[ir.Node]:
    """These nodes, and the norms and variances that they read: too small a norm would be zero before it is limited."""
    found: set[ir.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        found.add(node)
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer not in found and _is_statistic(producer):
                pending.append(producer)
    return found


def _is_statistic(node: ir.Node) -> bool:
    if not node.op_type.startswith("Reduce") and node.op_type not in _STATISTICS:
        return False
    held = (value.const_value for value in node.inputs if value is not None and value.const_value is not None)
    # An exponent is no weight, nor is a factor.
    return all(constant.size == 1 or not constant.dtype.is_floating_point() for constant in held)


def sentences(beyond: Mapping[ir.Node, float], precision: Precision, keep: Collection[str]) -> list[str]:
    """What to say of the numbers of nodes that nobody asked to keep."""
    said = {
        f"{module_of(node) or 'the network'} computes its {node.op_type} in fp32 in the {precision.value} trunks: "
        f"{precision.value} has no {number:.3g}"
        for node, number in beyond.items()
        if module_of(node) not in keep
    }
    return sorted(said)
