"""What a node of a trace calls and with what, whether it is a module or a function, by position or by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_CONV_TRANSPOSE = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_MAX_POOL = ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
_AVG_POOL = ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
_LP_POOL = ("input", "norm_type", "kernel_size", "stride", "ceil_mode")
_INTERPOLATE = ("input", "size", "scale_factor", "mode", "align_corners", "recompute_scale_factor", "antialias")

_FUNCTIONS: Mapping[Callable[..., Any], tuple[type[nn.Module], tuple[str, ...]]] = {
    F.conv2d: (nn.Conv2d, _CONV),
    F.conv_transpose2d: (nn.ConvTranspose2d, _CONV_TRANSPOSE),
    F.max_pool2d: (nn.MaxPool2d, _MAX_POOL),
    F.max_pool2d_with_indices: (nn.MaxPool2d, _MAX_POOL),
    torch.max_pool2d: (nn.MaxPool2d, _MAX_POOL),
    F.avg_pool2d: (nn.AvgPool2d, _AVG_POOL),
    F.lp_pool2d: (nn.LPPool2d, _LP_POOL),
    F.interpolate: (nn.Upsample, _INTERPOLATE),
    F.upsample: (nn.Upsample, ("input", "size", "scale_factor", "mode", "align_corners")),
    F.upsample_bilinear: (nn.UpsamplingBilinear2d, ("input", "size", "scale_factor")),
    F.upsample_nearest: (nn.UpsamplingNearest2d, ("input", "size", "scale_factor")),
    F.pixel_shuffle: (nn.PixelShuffle, ("input", "upscale_factor")),
    F.pixel_unshuffle: (nn.PixelUnshuffle, ("input", "downscale_factor")),
}
"""Functions, the module that each is the form of, and the names of their arguments in order."""

_DEFAULTS: Mapping[type[nn.Module], Mapping[str, Any]] = {
    nn.Conv2d: {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"},
    nn.ConvTranspose2d: {
        "bias": None,
        "stride": 1,
        "padding": 0,
        "output_padding": 0,
        "groups": 1,
        "dilation": 1,
        "padding_mode": "zeros",
    },
    nn.MaxPool2d: {"stride": None, "padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False},
    nn.AvgPool2d: {
        "stride": None,
        "padding": 0,
        "ceil_mode": False,
        "count_include_pad": True,
        "divisor_override": None,
    },
    nn.LPPool2d: {"stride": None, "ceil_mode": False},
    nn.Upsample: {"size": None, "scale_factor": None, "mode": "nearest", "align_corners": None},
    nn.UpsamplingBilinear2d: {"size": None, "scale_factor": None, "mode": "bilinear", "align_corners": True},
    nn.UpsamplingNearest2d: {"size": None, "scale_factor": None, "mode": "nearest", "align_corners": None},
    nn.PixelShuffle: {},
    nn.PixelUnshuffle: {},
}
"""The kinds of layers that are looked into, and the settings of a function that does not name them."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Call:
    """A layer of a known kind, as one node calls it."""

    kind: type[nn.Module]
    source: fx.Node
    """The node of the map that it is given."""
    settings: Mapping[str, Any]
    """By name; what a trace computes from shapes is a number here."""
    layer: nn.Module | None
    """``None`` for a function."""

    def pair(self, name: str) -> Pair:
        """A setting for rows and columns; the stride of a pool that names none is its kernel."""
        value = self.settings[name]
        if value is None or value == []:
            value = self.settings["kernel_size"]
        rows, columns = (value, value) if isinstance(value, int) else (value * 2 if len(value) == 1 else value)
        return int(rows), int(columns)


def call_of(graph: fx.GraphModule, node: fx.Node, numbers: Callable[[Any], Any]) -> Call | None:
    """The call of a node, or ``None`` where it is of no kind that is looked into.

    Args:
        graph: that holds it.
        node: a module or a function.
        numbers: gives the values of arguments that a trace computes, and other arguments as they are.
    """
    if node.op == "call_module":
        layer = graph.get_submodule(str(node.target))
        kind = next((known for known in reversed(list(_DEFAULTS)) if isinstance(layer, known)), None)
        if kind is None or (given := first_argument(node)) is None:
            return None
        names = {*_DEFAULTS[kind], "kernel_size", "upscale_factor", "downscale_factor", "norm_type"}
        return Call(kind, given, {name: getattr(layer, name) for name in names if hasattr(layer, name)}, layer)
    if node.op != "call_function" or node.target not in _FUNCTIONS:
        return None
    kind, order = _FUNCTIONS[node.target]  # type: ignore[index]
    named = {**dict(zip(order, node.args, strict=False)), **node.kwargs}
    source = named.pop("input")
    if not isinstance(source, fx.Node):
        return None
    settings = {**_DEFAULTS[kind], **{name: numbers(value) for name, value in named.items()}}
    if kind is nn.Conv2d or kind is nn.ConvTranspose2d:
        settings["kernel_size"] = tuple(numbers(named["weight"]).shape[-2:])
    return Call(kind, source, settings, None)


def first_argument(node: fx.Node) -> fx.Node | None:
    """The node that a layer is given, ``conv(x)`` or ``conv(input=x)``."""
    first = node.args[0] if node.args else node.kwargs.get("input", next(iter(node.kwargs.values()), None))
    return first if isinstance(first, fx.Node) else None


def by_position(graph: fx.GraphModule) -> None:
    """Give every layer its arguments by position, ``conv(input=x)`` as ``conv(x)``, in the graph itself."""
    for node in graph.graph.nodes:
        if node.op != "call_module" or not node.kwargs:
            continue
        try:
            bound = inspect.signature(graph.get_submodule(str(node.target)).forward).bind(*node.args, **node.kwargs)
        except (TypeError, ValueError):
            continue
        node.args, node.kwargs = bound.args, bound.kwargs
