"""The first splits of a network as windows cut from its input.

Let a network begin with splits, one convolution of kernel ``k``, dilation ``d`` and zero padding, and then
pointwise layers and splits, ``L`` splits in all with windows that amount to ``(h, w)``, of which ``(g, f)``
before the convolution. Pointwise layers commute with splits, and convolving split batches is convolving the
full grid with a dilation of ``(g, f)`` times as much. So the split batch of phase ``(row, column)`` is the
convolution with stride ``(h, w)`` and dilation ``(d*g, d*f)``, without padding, of the window that begins at
``(row, column)`` of the zero-padded input: the phases are independent from the first operation on, and all
together cost what the whole costs.

The border of zeros is the same for every number of levels, so that all trunks of a bundle read the same planes.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from torch import fx, nn

from converters.analysis.convolutions import keeps_size, padding_of
from converters.analysis.levels import total_window
from converters.analysis.pointwise import is_pointwise
from converters.analysis.tracing import calls, erase, input_of, layer_of, split_window
from converters.pooling import Window
from engines.schedules.phases import Border


@dataclass(frozen=True)
class Prefix:
    """The chain of nodes from the input that windows can stand for."""

    splits: tuple[fx.Node, ...]
    windows: tuple[Window, ...]
    conv: fx.Node | None
    windows_before_conv: int
    border: Border
    """Zeros that the planes need around the frame: top, left, bottom, right."""


def prefix_of(graph: fx.GraphModule) -> Prefix:
    """Follow the input as far as windows can stand for what is done to it."""
    node, conv, before = input_of(graph), None, 0
    splits: list[fx.Node] = []
    windows: list[Window] = []
    while len(node.users) == 1:
        (node,) = node.users
        if (window := split_window(graph, node)) is not None:
            splits.append(node)
            windows.append(window)
        elif conv is None and keeps_size(layer_of(graph, node)) and calls(graph, node) == 1:
            conv, before = node, len(splits)
        elif conv is None or not is_pointwise(graph, node):
            # A pointwise layer before the convolution would turn the zeros of the border into something else.
            break
    if not splits or conv is None:
        return Prefix(tuple(splits), tuple(windows), None, 0, (0, 0, 0, 0))
    layer = layer_of(graph, conv)
    assert isinstance(layer, nn.Conv2d)
    rows, columns = total_window(windows[:before])
    top, left, bottom, right = padding_of(layer)
    border = (top * rows, left * columns, bottom * rows, right * columns)
    return Prefix(tuple(splits), tuple(windows), conv, before, border)


def read_windows(graph: fx.GraphModule, prefix: Prefix, levels: int) -> None:
    """Make a network read windows that stand for its first ``levels`` splits, at most those of the prefix."""
    window = total_window(prefix.windows[:levels])
    if prefix.conv is not None and levels >= prefix.windows_before_conv:
        conv = layer_of(graph, prefix.conv)
        assert isinstance(conv, nn.Conv2d)
        rows, columns = total_window(prefix.windows[: prefix.windows_before_conv])
        conv.stride, conv.padding = window, (0, 0)
        conv.dilation = (conv.dilation[0] * rows, conv.dilation[1] * columns)
    else:
        _sample(graph, window, prefix.border)
    for node in prefix.splits[:levels]:
        erase(node)


def _sample(graph: fx.GraphModule, window: Window, border: Border) -> None:
    """Take every ``window``-th element of the input, without its border."""
    if window == (1, 1) and not any(border):
        return
    top, left, bottom, right = border
    source = input_of(graph)
    rows, columns = slice(top, -bottom or None, window[0]), slice(left, -right or None, window[1])
    with graph.graph.inserting_after(source):
        sampled = graph.graph.call_function(operator.getitem, (source, (slice(None), slice(None), rows, columns)))
    source.replace_all_uses_with(sampled, delete_user_cb=lambda user: user is not sampled)
