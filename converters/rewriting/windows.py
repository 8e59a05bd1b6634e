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

from torch import fx, nn

from converters.analysis.ends import Prefix
from converters.analysis.levels import total_window
from converters.analysis.tracing import erase, input_of, layer_of
from converters.pooling import Window
from engines.schedules.phases import Border


def strided_convolution(prefix: Prefix, levels: int) -> fx.Node | None:
    """The convolution that :func:`read_windows` gives a stride, if any: no further split can be taken before it."""
    strides = levels >= prefix.windows_before_conv and total_window(prefix.windows[:levels]) != (1, 1)
    return prefix.conv if strides else None


def read_windows(graph: fx.GraphModule, prefix: Prefix, levels: int) -> None:
    """Make a graph read windows that stand for its first ``levels`` splits, at most those of its prefix, in place."""
    window = total_window(prefix.windows[:levels])
    if prefix.conv is not None and levels >= prefix.windows_before_conv:
        conv = layer_of(graph, prefix.conv)
        assert isinstance(conv, nn.Conv2d)
        rows, columns = total_window(prefix.windows[: prefix.windows_before_conv])
        conv.stride, conv.padding = window, (0, 0)
        conv.dilation = (conv.dilation[0] * rows, conv.dilation[1] * columns)
        if prefix.pad is not None:
            erase(prefix.pad)
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
