"""Layers that are kept: what they do to the rows and columns of a map, and to the mean over shifts."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from converters.analysis.pointwise import is_pointwise
from converters.analysis.tracing import layer_of, name_of
from converters.densifying.arguments import Pair, call_of
from converters.densifying.places import Place, Standing
from engines.errors import NetworkError

Numbers = Callable[[Any], Any]

_PADS = (nn.ZeroPad2d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)
_GRID_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, *_PADS)
_GRID_FUNCTIONS = frozenset(
    {
        "avg_pool2d",
        "conv2d",
        "conv_transpose2d",
        "getitem",
        "lp_pool2d",
        "max_pool2d",
        "narrow",
        "pad",
        "chunk",
        "split",
    }
)
"""What may make a map a few rows larger or smaller, by its padding or as a crop, where it leaves none out."""
_ADAPTIVE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_OFF_GRID = frozenset(
    {"adaptive_avg_pool2d", "adaptive_max_pool2d", "amax", "amin", "baddbmm", "bmm", "einsum", "expand", "flatten"}
    | {"linear", "logsumexp", "matmul", "max", "mean", "min", "movedim", "permute", "prod", "reshape", "squeeze", "std"}
    | {"sum", "swapaxes", "swapdims", "t", "transpose", "unflatten", "unsqueeze", "var", "view", "view_as"}
    | {"scaled_dot_product_attention", "unfold", "var_mean", "std_mean", "contiguous", "clone"}
)
"""Functions and methods after which the last two axes are others, or cover the whole map."""
_OFF_GRID_LAYERS = (nn.Linear, nn.Flatten, nn.Unflatten, nn.MultiheadAttention, nn.Unfold, nn.LayerNorm, *_ADAPTIVE)
_ELEMENTWISE = frozenset({"add", "sub", "mul", "truediv", "div", "neg", "cat", "concat", "getitem", "softmax", "chunk"})
_LINEAR = frozenset(
    {
        "add",
        "avg_pool2d",
        "cat",
        "chunk",
        "clone",
        "concat",
        "contiguous",
        "conv2d",
        "dropout",
        "getitem",
        "iadd",
        "isub",
    }
    | {"narrow", "neg", "pad", "split", "sub"}
)
_SCALING = frozenset({"mul", "truediv", "div", "imul", "itruediv"})
_LINEAR_LAYERS = (nn.AvgPool2d, nn.Conv2d, nn.ConvTranspose2d, nn.Dropout, nn.Dropout2d, nn.Identity, *_PADS)


def function_name(node: fx.Node) -> str:
    """The plain name of a function or method; empty for modules."""
    if node.op == "call_method":
        return str(node.target)
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""


def named(node: fx.Node) -> str:
    """A node as the report names it: the path of its module, or its function with the module that calls it."""
    if node.op == "call_module":
        return str(node.target)
    paths = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
    return f"{paths[-1]}: {node.name}" if paths and paths[-1] else node.name


def kind_of(graph: fx.GraphModule, node: fx.Node, numbers: Numbers) -> str:
    """What a layer is, in a few words: ``Conv2d 3x3, stride 2``."""
    layer = layer_of(graph, node)
    call = call_of(graph, node, numbers)
    kind = type(layer).__name__ if layer is not None else node.name.rstrip("_0123456789")
    if call is None:
        return kind
    words = kind if layer is None else call.kind.__name__
    if "kernel_size" in call.settings:
        words += f" {_sides(call.pair('kernel_size'))}"
    if "stride" in call.settings and max(call.pair("stride")) > 1:
        words += f", stride {_sides(call.pair('stride'), alone=True)}"
    if "mode" in call.settings:
        words += f", {call.settings['mode']}" + (", corners aligned" if call.settings["align_corners"] else "")
    return words


def _sides(pair: Pair, *, alone: bool = False) -> str:
    return str(pair[0]) if alone and pair[0] == pair[1] else f"{pair[0]}x{pair[1]}"


def is_constant(node: fx.Node) -> bool:
    """Whether a node takes the type of a tensor and nothing else of it: what it gives fits any level."""
    return function_name(node) in ("new_ones", "new_zeros", "new_full", "new_tensor")


def step_of(node: fx.Node, numbers: Numbers) -> tuple[Pair, Pair] | None:
    """Where a slice of rows and columns begins, and its step; ``None`` for what is no such slice of a whole map."""
    if node.op != "call_function" or node.target is not operator.getitem:
        return None
    index = numbers(node.args[1])
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(part, torch.Tensor) for part in parts) or parts.count(Ellipsis) > 1:
        return None
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * (5 - len(parts))
    parts += [slice(None)] * (4 - len(parts))
    if len(parts) != 4 or not all(isinstance(part, slice) for part in parts):
        return None
    rows, columns = parts[2:]
    step = (rows.step or 1, columns.step or 1)
    start = (rows.start or 0, columns.start or 0)
    whole = all(part in (slice(None), slice(0, None)) for part in parts[:2])
    if max(step) == 1 or not whole or min(*step, *start) < 0:
        return None
    return start, step


def keeps_grid(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a kept layer of stride 1 changes the size of a map only at its border."""
    layer = layer_of(graph, node)
    if layer is not None:
        return isinstance(layer, _GRID_LAYERS)
    name = function_name(node)
    if name == "getitem":
        return not _has_step(node)
    return name in _GRID_FUNCTIONS or node.target in (F.max_pool2d, F.pad)


def _has_step(node: fx.Node) -> bool:
    found = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    return any(isinstance(part, slice) and part.step not in (None, 1) for part in found)


def leaves_grid(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether the rows and columns after a layer are known to be others: those of cells, tokens or other axes."""
    layer = layer_of(graph, node)
    if layer is not None:
        return isinstance(layer, _OFF_GRID_LAYERS) or is_adaptive(graph, node)
    return function_name(node) in _OFF_GRID or is_adaptive(graph, node)


def is_adaptive(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a layer pools a whole map into a number of cells."""
    layer = layer_of(graph, node)
    if layer is not None:
        return isinstance(layer, _ADAPTIVE)
    return node.op == "call_function" and node.target in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d)


def check_unfolded(graph: fx.GraphModule, node: fx.Node, numbers: Numbers) -> None:
    """Raise :class:`NetworkError` for patches taken at a stride: nothing says where they lie."""
    layer = layer_of(graph, node)
    if isinstance(layer, nn.Unfold):
        stride = layer.stride
    elif node.op == "call_function" and node.target is F.unfold:
        stride = numbers(node.kwargs.get("stride", node.args[4] if len(node.args) > 4 else 1))
    else:
        return
    if (stride if isinstance(stride, int) else max(stride)) > 1:
        raise NetworkError(
            f"{name_of(node)} takes patches at a stride of {stride}, which has no dense form here: use a convolution"
        )


def has_norms_alone(layer: nn.Module) -> bool:
    """Whether the hooks of a layer are those of PyTorch's norms of weights, whatever its stride."""
    hooks = [*layer._forward_pre_hooks.values(), *layer._forward_hooks.values()]
    return all(isinstance(hook, (WeightNorm, SpectralNorm)) for hook in hooks)


def standing_of(graph: fx.GraphModule, node: fx.Node, places: Sequence[Place]) -> tuple[Standing, bool]:
    """What a kept layer's result is to the strided network, and whether it is here that it becomes another function."""
    standings = {place.standing for place in places}
    if standings == {Standing.SHIFTS}:
        return Standing.SHIFTS, False
    if Standing.JOINED in standings:
        return Standing.JOINED, False
    if standings == {Standing.STITCHED} and _is_elementwise(graph, node):
        return Standing.STITCHED, False
    if standings <= {Standing.MEAN, Standing.SHIFTS} and _is_linear(graph, node, len(places)):
        return Standing.MEAN, False
    return Standing.JOINED, True


def _is_elementwise(graph: fx.GraphModule, node: fx.Node) -> bool:
    return is_pointwise(graph, node) or (layer_of(graph, node) is None and function_name(node) in _ELEMENTWISE)


def _is_linear(graph: fx.GraphModule, node: fx.Node, maps: int) -> bool:
    layer = layer_of(graph, node)
    if isinstance(layer, nn.BatchNorm2d):
        return layer.running_mean is not None
    if isinstance(layer, nn.Conv2d):
        return layer.padding_mode == "zeros"
    if layer is not None:
        return isinstance(layer, _LINEAR_LAYERS)
    name = function_name(node)
    return name in _LINEAR or (name in _SCALING and maps == 1)
