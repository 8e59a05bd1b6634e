"""Half precision that is really rounded where ONNX Runtime computes in float32.

ONNX Runtime has no half-precision arithmetic on a CPU. It computes in float32 between casts, and drops every pair of
casts between two nodes: nothing is rounded, and nothing overflows. Unsqueeze and Squeeze are views, which it has in
every type, so the pair of casts around them stays: each result is once made half precision, with all that belongs to
it, subnormals and infinities too.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir

from converters.graphs.adding import added_constant
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.errors import BackendError

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}

_WIDER = {ir.DataType.FLOAT, ir.DataType.DOUBLE}

_LAYOUT = {
    *("Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Relu", "Reshape", "Slice", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
}
"""Operators whose results are no larger than what they are given, and no less rounded."""

_HALF_PRODUCT = """
<ir_version: 10, opset_import: ["" : 18]>
product (float[n] a, float[n] b) => (float[n] c) <float16[n] half_a, float16[n] half_b, float16[n] half_c>
{
    half_a = Cast <to = 10> (a)
    half_b = Cast <to = 10> (b)
    half_c = Mul (half_a, half_b)
    c = Cast <to = 1> (half_c)
}
"""


def write_rounding(model: ir.Model) -> None:
    """Round what arithmetic gives in float16, and what is cast to it, in place; a graph without it stays as it is.

    Raises :class:`BackendError` where this ONNX Runtime drops the rounding all the same.
    """
    values = [value for value in (*arithmetic_results(model), *_casts(model)) if value.dtype is ir.DataType.FLOAT16]
    if values:
        if reason := rounding_refusal():
            raise BackendError(reason)
        _round(model.graph, values)


def arithmetic_results(model: ir.Model) -> list[ir.Value]:
    """All float tensors that may be larger than those they are made from, in the order of the graph."""
    nodes = (node for node in model.graph if node.op_type not in _LAYOUT)
    return [value for node in nodes for value in node.outputs if value.dtype in _FLOATS]


def _casts(model: ir.Model) -> list[ir.Value]:
    """What comes from a wider type: ONNX Runtime drops such a cast together with the one behind it, too."""
    casts = (node for node in model.graph if node.op_type == "Cast")
    return [cast.outputs[0] for cast in casts if cast.inputs[0] is not None and cast.inputs[0].dtype in _WIDER]


def half_product() -> ir.Model:
    """``c = a * b`` of float32 vectors, computed in float16 between casts and not yet rounded."""
    return ir.from_onnx_text(_HALF_PRODUCT)


@functools.cache
def rounding_refusal() -> str | None:
    """Why fp16 cannot be judged on this machine; ``None`` where results are rounded."""
    # A later ONNX Runtime might see through the views. Results would then look too good, and nobody would know.
    model = half_product()
    _round(model.graph, arithmetic_results(model))
    factor = np.array([1 + 2.0**-10], np.float32)
    try:
        with OnnxRuntimeRunner(ir.to_proto(model).SerializeToString()) as runner:
            product = runner.infer({"a": factor, "b": factor})["c"][0]
    except BackendError as error:
        return f"whether ONNX Runtime rounds to half precision cannot be tried: {error}"
    if product == np.float32(1 + 2.0**-9):
        return None
    return "this version of ONNX Runtime rounds nothing to half precision; fp16 cannot be judged here"


def _round(graph: ir.Graph, values: list[ir.Value]) -> None:
    axis = added_constant(graph, "rounding:axis", np.array([0]))
    for value in values:
        producer, name = value.producer(), value.name
        assert producer is not None
        # Who asks for the tensor gets what is rounded.
        rounded = ir.val(name, value.dtype, value.shape)
        value.name = f"raw:{name}"
        value.replace_all_uses_with(rounded, replace_graph_outputs=True)
        view = ir.node("Unsqueeze", [value, axis], outputs=[ir.val(f"view:{name}", value.dtype)])
        producer.append([view, ir.node("Squeeze", [view.outputs[0], axis], outputs=[rounded])])
