"""Graphs with explicit quantization: QuantizeLinear and DequantizeLinear before the convolutions.

The form that TensorRT takes: symmetric, one scale for an activation, one for each output channel of the weights,
which are stored as int8, and the bias in float. What is no convolution, and the modules that are to be kept, compute
in single precision.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from converters.graphs.adding import added_constant, added_node
from converters.graphs.identity import module_of, network_nodes
from converters.graphs.modules import kept_nodes
from converters.graphs.quantization.scales import QuantizedConvolution, quantized_convolution


def quantize_network(model: ir.Model, ranges: Mapping[str, float], keep: Collection[str] = ()) -> None:
    """Quantize the convolutions of a single-precision model, in place.

    Args:
        model: with the identities of its nodes.
        ranges: by module: the magnitude at its input that becomes 127. A module without one stays as it is.
        keep: modules that stay in single precision.
    """
    network = network_nodes(model)
    kept = kept_nodes(network, keep)
    quantizer = _Quantizer(model.graph)
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
        quantizer.quantize(node, module, constants)
    common.RemoveUnusedNodesPass()(model)
    common.NameFixPass()(model)


class _Quantizer:
    """Quantizes the convolutions of one graph. What convolutions share, they share afterwards."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._scales: dict[str, tuple[ir.Value, ir.Value]] = {}
        """Scale and zero point of the inputs of a module: the strided lowering gives it several."""
        self._inputs: dict[tuple[ir.Value, float], ir.Value] = {}
        """By value and scale: what layers read that read one tensor with one scale."""
        self._weights: dict[ir.Value, ir.Value] = {}
        self._biases: dict[tuple[ir.Value, ir.Value, float], ir.Value] = {}
        """By bias, weight and scale of the input: the scales of both say what the bias is a multiple of."""

    def quantize(self, conv: ir.Node, module: str, constants: QuantizedConvolution) -> None:
        """Make a convolution read int8."""
        source, weight, bias, *_ = (*conv.inputs, None)
        assert source is not None
        assert weight is not None
        scale = float(constants.input_scale)
        if (source, scale) not in self._inputs:
            self._inputs[source, scale] = self._quantized_input(conv, source, module, constants.input_scale)
        if weight not in self._weights:
            self._weights[weight] = self._dequantized_weight(conv, weight, module, constants)
        if bias is not None and constants.bias is not None:
            if (bias, weight, scale) not in self._biases:
                self._biases[bias, weight, scale] = added_constant(self._graph, f"{bias.name}.int8", constants.bias)
            conv.replace_input_with(2, self._biases[bias, weight, scale])
        conv.replace_input_with(0, self._inputs[source, scale])
        conv.replace_input_with(1, self._weights[weight])

    def _quantized_input(self, conv: ir.Node, source: ir.Value, module: str, scale: np.float32) -> ir.Value:
        if module not in self._scales:
            self._scales[module] = (
                added_constant(self._graph, f"{module}.input.scale", np.array(scale)),
                added_constant(self._graph, f"{module}.input.zero_point", np.array(0, np.int8)),
            )
        constants, stem = self._scales[module], f"{module}/input"
        whole = added_node("QuantizeLinear", [source, *constants], f"{stem}/QuantizeLinear", ir.DataType.INT8, conv)
        result = whole.outputs[0]
        back = added_node("DequantizeLinear", [result, *constants], f"{stem}/DequantizeLinear", ir.DataType.FLOAT, conv)
        conv.prepend([whole, back])
        return back.outputs[0]

    def _dequantized_weight(
        self, conv: ir.Node, weight: ir.Value, module: str, constants: QuantizedConvolution
    ) -> ir.Value:
        stored = [
            added_constant(self._graph, f"{weight.name}.int8", constants.weight),
            added_constant(self._graph, f"{weight.name}.scale", constants.weight_scales),
            added_constant(self._graph, f"{weight.name}.zero_point", np.zeros(len(constants.weight_scales), np.int8)),
        ]
        name = f"{module}/weight/DequantizeLinear"
        back = added_node("DequantizeLinear", stored, name, ir.DataType.FLOAT, conv, axis=0)
        conv.prepend(back)
        return back.outputs[0]
