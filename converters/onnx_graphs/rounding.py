"""Half precision that is really rounded where ONNX Runtime computes in float32.

ONNX Runtime has no half-precision kernels on a CPU. It computes in float32 between casts, and drops every pair of casts
between two nodes: nothing is rounded, and nothing overflows. So the rounding is written out, after Veltkamp: with
``c = x * (2**13 + 1)``, ``c - (c - x)`` is ``x`` with the 11 bits that half precision has. What it cannot hold then
becomes infinite by a multiplication that takes it over the edge of float32, and one back. Numbers that are subnormal in
half precision keep more bits.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}

_ROUNDING: dict[int, tuple[float, float]] = {
    TensorProto.FLOAT16: (2.0**13 + 1, 2.0**112),
    TensorProto.BFLOAT16: (2.0**16 + 1, 1.0),
}
"""By type: the factor that splits off the bits it lacks, and the one that takes 2**16, or 2**128, to the edge."""

_LAYOUT = {
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Relu", "Reshape", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
}
"""Operators whose results are no larger than what they are given, and no less rounded."""


def write_rounding(model: onnx.ModelProto) -> None:
    """Round what arithmetic gives in half precision, in place; a graph in float32 stays as it is."""
    types = _types(model)
    for name in arithmetic_outputs(model):
        if types[name] in _ROUNDING:
            _round(model.graph, name, types[name])


def arithmetic_outputs(model: onnx.ModelProto) -> list[str]:
    """All float tensors that may be larger than those they are made from, in the order of the graph."""
    types = _types(model)
    return [
        output
        for node in model.graph.node
        if node.op_type not in _LAYOUT
        for output in node.output
        if types.get(output) in _FLOATS
    ]


def _types(model: onnx.ModelProto) -> dict[str, int]:
    known = (*model.graph.value_info, *model.graph.output, *model.graph.input)
    return {value.name: value.type.tensor_type.elem_type for value in known}


def _round(graph: onnx.GraphProto, name: str, kind: int) -> None:
    """Round a tensor to its own type, in float32 arithmetic."""
    factor, edge = _ROUNDING[kind]
    place = next(index for index, node in enumerate(graph.node) if name in node.output)
    producer = graph.node[place]
    producer.output[list(producer.output).index(name)] = f"raw:{name}"
    for key, value in {"factor": factor, "edge": edge, "back": 1 / edge}.items():
        graph.initializer.append(helper.make_tensor(f"{key}:{name}", TensorProto.FLOAT, [], [value]))
    steps = [
        helper.make_node("Cast", [f"raw:{name}"], [f"wide:{name}"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"wide:{name}", f"factor:{name}"], [f"scaled:{name}"]),
        helper.make_node("Sub", [f"scaled:{name}", f"wide:{name}"], [f"rest:{name}"]),
        helper.make_node("Sub", [f"scaled:{name}", f"rest:{name}"], [f"rounded:{name}"]),
        helper.make_node("Mul", [f"rounded:{name}", f"edge:{name}"], [f"raised:{name}"]),
        helper.make_node("Mul", [f"raised:{name}", f"back:{name}"], [f"held:{name}"]),
        helper.make_node("Cast", [f"held:{name}"], [name], to=kind),
    ]
    for offset, step in enumerate(steps, 1):
        graph.node.insert(place + offset, step)
