"""What a network in PyTorch gives with the rounding of a graph in fp16 or int8.

Weights are found by the paths of modules in the network, and quantized here from the network's own: a graph that takes
one layer's for another's differs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping

import onnx_ir as ir
import torch
from torch import Tensor, fx, nn

from converters.analysis.modules import called_modules, original_module
from converters.graphs.identity import module_of, network_nodes
from converters.graphs.layers import precision_of
from converters.graphs.quantization.scales import quantized_convolution
from engines.schedules.schedule import Precision


def emulated(
    graph: fx.GraphModule, model: ir.Model, precision: Precision, ranges: Mapping[str, float]
) -> fx.GraphModule:
    """A network with the weights, and in int8 the activations, of the layers that a graph has in a precision.

    Args:
        graph: of a trunk, in fp32.
        model: the trunk's graph in this precision.
        precision: fp16 or int8; in another one the network stays as it is.
        ranges: for int8, by module: the magnitude at its input that becomes 127.
    """
    if precision is Precision.INT8:
        quantized = {
            module_of(node)
            for node in network_nodes(model)
            if node.op_type == "Conv" and precision_of(node) is Precision.INT8
        }
        return _replaced(graph, quantized, lambda layer, path: _QuantizedConvolution(layer, ranges[path]))
    if precision is Precision.FP16:
        halved = {
            module_of(node)
            for node in network_nodes(model)
            if any(value is not None and value.is_initializer() and value.dtype is _HALF for value in node.inputs)
        }
        return _replaced(graph, halved, lambda layer, path: copy.deepcopy(layer).half().float())
    return graph


_HALF = ir.DataType.FLOAT16


def _replaced(
    graph: fx.GraphModule, modules: Collection[str], made: Callable[[nn.Module, str], nn.Module]
) -> fx.GraphModule:
    """A copy of a graph with other layers in the place of these modules and of their copies."""
    emulation = copy.deepcopy(graph)
    for path in called_modules(graph):
        original = original_module(graph, path)
        if original in modules:
            emulation.set_submodule(path, made(graph.get_submodule(path), original))
    return emulation


class _QuantizedConvolution(nn.Module):
    """A convolution whose input, weight and bias are rounded as in a graph of int8."""

    def __init__(self, layer: nn.Module, input_range: float) -> None:
        super().__init__()
        assert isinstance(layer, nn.Conv2d)
        bias = None if layer.bias is None else layer.bias.detach().numpy()
        constants = quantized_convolution(layer.weight.detach().numpy(), bias, input_range)
        scales = torch.from_numpy(constants.weight_scales).reshape(-1, 1, 1, 1)
        self.layer = layer
        self.scale = float(constants.input_scale)
        self.weight = torch.from_numpy(constants.weight).float() * scales
        self.bias = None if constants.bias is None else torch.from_numpy(constants.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Of any float input."""
        assert isinstance(self.layer, nn.Conv2d)
        # Halves go to the even neighbour, as QuantizeLinear rounds them.
        whole = torch.round(x / self.scale).clamp(-128, 127)
        return self.layer._conv_forward(whole * self.scale, self.weight, self.bias)  # type: ignore[no-any-return]
