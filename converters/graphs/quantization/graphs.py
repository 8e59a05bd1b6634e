"""Graphs with explicit quantization: QuantizeLinear and DequantizeLinear before the convolutions.

The form that TensorRT takes: symmetric, one scale for an activation, one for each output channel of the weights,
which are stored as int8, and the bias in float. What is no convolution, and the modules that are to be kept, compute
in single precision.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.graphs.modules import kept_nodes, module_of, network_nodes
from converters.graphs.quantization.scales import QuantizedConvolution, quantized_convolution


def quantize_network(model: ir.Model, ranges: Mapping[str, float], keep: Collection[str] = ()) -> None:
    """Quantize the convolutions of a single-precision model, in place.

    Args:
        model: with nodes named after their modules.
        ranges: by module: the magnitude at its input that becomes 127. A module without one stays as it is.
        keep: modules that stay in single precision.
    """
    network = network_nodes(model)
    kept = kept_nodes(network, keep)
    known: dict[str, ir.Value] = {}
    for node in network:
        module = module_of(node)
        if node.op_type != "Conv" or node in kept or module not in ranges:
            continue
        weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        if weight is None or weight.const_value is None or (bias is not None and bias.const_value is None):
            # Weights that are computed have no scale.
            continue
        constants = quantized_convolution(
            weight.const_value.numpy(),
            None if bias is None or bias.const_value is None else bias.const_value.numpy(),
            ranges[module],
        )
        _quantize(model.graph, node, module, constants, known)
        for value in (weight, bias):
            if value is not None and not value.uses():
                del model.graph.initializers[str(value.name)]


def _quantize(
    graph: ir.Graph, conv: ir.Node, module: str, constants: QuantizedConvolution, known: dict[str, ir.Value]
) -> None:
    source = conv.inputs[0]
    assert source is not None
    # Layers that read one tensor with one scale share its quantized form.
    key = f"{source.name}:{constants.input_scale}"
    if key not in known:
        scale = _constant(graph, f"{module}.input.scale", np.array(constants.input_scale))
        zero = _constant(graph, f"{module}.input.zero_point", np.array(0, np.int8))
        # The strided lowering gives one module several inputs.
        stem = _free_name(graph, f"{module}/input")
        whole = _insert(conv, "QuantizeLinear", [source, scale, zero], stem, ir.DataType.INT8)
        known[key] = _insert(conv, "DequantizeLinear", [whole, scale, zero], stem, ir.DataType.FLOAT)
    conv.replace_input_with(0, known[key])
    # A module that computes several convolutions of a graph has one weight.
    key = f"{module}.weight"
    if key not in known:
        weight = _constant(graph, f"{module}.weight.int8", constants.weight)
        scales = _constant(graph, f"{module}.weight.scale", constants.weight_scales)
        zeros = _constant(graph, f"{module}.weight.zero_point", np.zeros(len(constants.weight_scales), np.int8))
        known[key] = _insert(
            conv, "DequantizeLinear", [weight, scales, zeros], f"{module}/weight", ir.DataType.FLOAT, axis=0
        )
    conv.replace_input_with(1, known[key])
    if constants.bias is not None:
        conv.replace_input_with(2, _constant(graph, f"{module}.bias.int8", constants.bias))


def _free_name(graph: ir.Graph, stem: str) -> str:
    """``stem``, or ``stem_1`` and so on where nodes have it already."""
    taken = {str(node.name).rpartition("/")[0] for node in graph}
    return next(
        name for name in (stem, *(f"{stem}_{index}" for index in range(1, len(taken) + 2))) if name not in taken
    )


def _insert(
    before: ir.Node, kind: str, inputs: list[ir.Value], stem: str, dtype: ir.DataType, **attributes: int
) -> ir.Value:
    node = ir.node(kind, inputs, attributes, name=f"{stem}/{kind}")
    (output,) = node.outputs
    output.name, output.type, output.shape = f"{node.name}_output", ir.TensorType(dtype), inputs[0].shape
    assert before.graph is not None
    before.graph.insert_before(before, node)
    return output


def _constant(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """An initializer, once for each name."""
    if name not in graph.initializers:
        tensor = ir.Tensor(array, name=name)
        graph.initializers[name] = ir.Value(
            name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
        )
    return graph.initializers[name]
