"""The layers of a graph, and what each of them computes in."""

from __future__ import annotations

import onnx_ir as ir

from converters.graphs.identity import module_of
from engines.schedules.schedule import Precision

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""What multiplies by weights."""

_PRECISIONS = {
    ir.DataType.FLOAT: Precision.FP32,
    ir.DataType.FLOAT16: Precision.FP16,
    ir.DataType.BFLOAT16: Precision.BF16,
}


def layers_of(model: ir.Model) -> list[ir.Node]:
    """Convolutions and matrix products with weights, in the order of the graph; no product of two activations."""
    return [node for node in matrix_products(model) if _has_weights(node)]


def names_of_nodes(model: ir.Model) -> dict[ir.Node, str]:
    """By node, in order: what to call it when speaking to people, unlike all others.

    The first layer of a module is called as the module, ``layer1.0.conv1``; all else has the name it has in the graph.
    """
    layers, names, taken = set(matrix_products(model)), {}, set()
    for index, node in enumerate(model.graph):
        module = module_of(node) if node in layers else ""
        own = node.name or node.outputs[0].name or f"{node.op_type} {index}"
        name = next(name for name in (module, own, f"{own} (node {index})") if name and name not in taken)
        names[node] = name
        taken.add(name)
    return names


def matrix_products(model: ir.Model) -> list[ir.Node]:
    """Convolutions and matrix products, those of two activations too, in the order of the graph."""
    return [node for node in model.graph if node.op_type in OPERATORS]


def precision_of(layer: ir.Node) -> Precision | None:
    """The precision that a layer computes in: int8 where its weights are dequantized; ``None`` for any other type.

    It is read off what the layer gives: weights may be stored in another type, with a cast before the layer.
    """
    weight = layer.inputs[1]
    producer = None if weight is None else weight.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return Precision.INT8
    dtype = layer.outputs[0].dtype
    return None if dtype is None else _PRECISIONS.get(dtype)


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
