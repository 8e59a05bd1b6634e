"""Pointwise layers: what commutes with a split or a merge, since it looks at one position at a time."""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.convolutions import has_hooks
from converters.analysis.in_place import writes_into_a_view
from converters.analysis.tracing import layer_of

_MODULES = (
    nn.Dropout,
    nn.Dropout2d,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.Sigmoid,
    nn.SiLU,
    nn.Softmax2d,
    nn.Softplus,
    nn.Tanh,
)
_FUNCTIONS = frozenset(
    {F.elu, F.gelu, F.hardswish, F.leaky_relu, F.relu, F.relu6, F.silu, torch.relu, torch.sigmoid, torch.tanh}
)
_METHODS = frozenset({"relu", "sigmoid", "tanh"})


def is_pointwise(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node, in evaluation mode, treats every position alike and on its own."""
    layer = layer_of(graph, node)
    if writes_into_a_view(node) or (layer is not None and has_hooks(layer)):
        return False
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.padding in ((0, 0), "valid", "same")
    if isinstance(layer, nn.BatchNorm2d):
        # Without running statistics it looks at the whole batch in evaluation mode too.
        return layer.running_mean is not None
    if isinstance(layer, (nn.Softmax, nn.LogSoftmax)):
        return layer.dim in (1, -3)
    if layer is not None:
        return isinstance(layer, _MODULES)
    if node.op == "call_function":
        return node.target in _FUNCTIONS
    return node.op == "call_method" and node.target in _METHODS
