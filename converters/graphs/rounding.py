"""Half precision that is really rounded where ONNX Runtime computes in float32.

ONNX Runtime has no half-precision arithmetic on a CPU. It computes in float32 between casts, and drops every pair of
casts between two nodes: nothing is rounded, and nothing overflows. Unsqueeze and Squeeze are views, which it has in
every type, so the pair of casts around them stays: each result is once made half precision, with all that belongs to
it, subnormals and infinities too.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx
from onnx import TensorProto, helper

from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.errors import BackendError

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16}

_LAYOUT = {
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Relu", "Reshape", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
}
"""Operators whose results are no larger than what they are given, and no less rounded."""

_AXIS = "rounding:axis"


def write_rounding(model: onnx.ModelProto) -> None:
    """Round what arithmetic gives in float16, in place; a graph without it stays as it is.

    Raises :class:`BackendError` where this ONNX Runtime drops the rounding all the same.
    """
    types = _types(model)
    names = [name for name in arithmetic_outputs(model) if types[name] == TensorProto.FLOAT16]
    if names:
        _check_rounding()
        _round(model.graph, names)


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


def half_product() -> onnx.ModelProto:
    """``c = a * b`` of float32 vectors, computed in float16 between casts and not yet rounded."""
    nodes = [
        helper.make_node("Cast", ["a"], ["half_a"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["b"], ["half_b"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half_a", "half_b"], ["half_c"]),
        helper.make_node("Cast", ["half_c"], ["c"], to=TensorProto.FLOAT),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("a", "b")]
    output = helper.make_tensor_value_info("c", TensorProto.FLOAT, ["n"])
    held = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n"]) for name in ("half_a", "half_b", "half_c")]
    graph = helper.make_graph(nodes, "product", inputs, [output], value_info=held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@functools.cache
def _check_rounding() -> None:
    # A later ONNX Runtime might see through the views. Results would then look too good, and nobody would know.
    model = half_product()
    _round(model.graph, ["half_c"])
    factor = np.array([1 + 2.0**-10], np.float32)
    with OnnxRuntimeRunner(model.SerializeToString()) as runner:
        product = runner.infer({"a": factor, "b": factor})["c"][0]
    if product != np.float32(1 + 2.0**-9):
        raise BackendError("this version of ONNX Runtime rounds nothing to half precision; fp16 cannot be judged here")


def _round(graph: onnx.GraphProto, names: list[str]) -> None:
    graph.initializer.append(helper.make_tensor(_AXIS, TensorProto.INT64, [1], [0]))
    producers = {output: node for node in graph.node for output in node.output}
    steps = {}
    for name in names:
        producer = producers[name]
        producer.output[list(producer.output).index(name)] = f"raw:{name}"
        steps[f"raw:{name}"] = [
            helper.make_node("Unsqueeze", [f"raw:{name}", _AXIS], [f"view:{name}"]),
            helper.make_node("Squeeze", [f"view:{name}", _AXIS], [name]),
        ]
    nodes = [step for node in graph.node for step in (node, *(s for o in node.output for s in steps.get(o, ())))]
    del graph.node[:]
    graph.node.extend(nodes)


def _types(model: onnx.ModelProto) -> dict[str, int]:
    known = (*model.graph.value_info, *model.graph.output, *model.graph.input)
    return {value.name: value.type.tensor_type.elem_type for value in known}
