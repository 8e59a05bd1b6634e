"""The layers of a graph, and what each of them computes in."""

from __future__ import annotations

import onnx_ir as ir

from engines.schedules.schedule import Precision

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What multiplies by weights."""

_KINDS = {
    ir.DataType.FLOAT: Precision.FP32,
    ir.DataType.FLOAT16: Precision.FP16,
    ir.DataType.BFLOAT16: Precision.BF16,
}


def layers_of(model: ir.Model) -> list[ir.Node]:
    """Convolutions and matrix products with weights, in the order of the graph; no product of two activations."""
    return [node for node in model.graph if node.op_type in OPERATORS and _has_weights(node)]


def kind_of(layer: ir.Node) -> Precision | None:
    """The precision that a layer computes in: int8 where its weights are dequantized; ``None`` for any other type.

    It is read off what the layer gives: weights may be stored in another type, with a cast before the layer.
    """
    weight = layer.inputs[1]
    producer = None if weight is None else weight.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return Precision.INT8
    dtype = layer.outputs[0].dtype
    return None if dtype is None else _KINDS.get(dtype)


def _has_weights(node: ir.Node) -> bool:
    """Whether the second input is made of constants alone."""
    pending = [node.inputs[1]]
    while pending:
        value = pending.pop()
        if value is None or value.is_initializer():
            continue
        producer = value.producer()
        if producer is None:
            return False
        pending += producer.inputs
    return True
