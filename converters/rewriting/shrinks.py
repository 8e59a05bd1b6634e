"""Splits as shrinks at an offset that is given at run time (section 3.2 of the paper, used at inference).

A network whose first splits are shrinks at some offsets computes the split batches that lie there. Where the
feature map comes from a convolution, only what the offset needs is computed: with kernel ``k``, padding ``p`` and
window ``h``, row ``i`` of the split batch at offset ``r`` is row ``r + h*i`` of the convolution, which reads the
padded rows ``r + h*i ... r + h*i + k - 1``. So the map is padded first, then read from row ``r`` on, then convolved
with stride ``h`` and no padding. The border is right at every offset, because it is there before the offset acts.
Pointwise layers between the convolution and the split commute with it.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.convolutions import is_stepwise, padding_of
from converters.analysis.pointwise import is_pointwise
from converters.analysis.tracing import erase, layer_of
from converters.pooling import Window
from engines.schedules.phases import Border


def shrink_at_offset(
    graph: fx.GraphModule, split: fx.Node, producer: fx.Node, window: Window, offsets: fx.Node, level: int
) -> None:
    """Replace a split by a shrink at ``offsets[level]``, an ``int64`` pair ``(row, column)``, in place.

    Args:
        graph: that holds the nodes.
        split: to be replaced.
        producer: where the chain to it begins (:class:`converters.analysis.levels.Levels`).
        window: of the split.
        offsets: the graph's input of that name.
        level: which of them is the split's.
    """
    source = producer.args[0]
    conv = layer_of(graph, producer)
    if is_stepwise(conv) and not is_pointwise(graph, producer):
        assert isinstance(conv, nn.Conv2d)
        with graph.graph.inserting_before(producer):
            read = graph.graph.call_function(padded_from, (source, offsets, level, window, padding_of(conv)))
        conv.stride, conv.padding = window, (0, 0)
    else:
        with graph.graph.inserting_before(producer):
            read = graph.graph.call_function(sampled_at, (source, offsets, level, window))
    producer.args = (read, *producer.args[1:])
    erase(split)


def padded_from(x: Tensor, offsets: Tensor, level: int, window: Window, padding: Border) -> Tensor:
    """``(n, c, H, W)`` padded with zeros, then read from the offset on: ``h - 1`` rows and ``w - 1`` columns less."""
    top, left, bottom, right = padding
    x = F.pad(x, (left, right, top, bottom)) if any(padding) else x
    rows = offsets[level, 0] + torch.arange(x.shape[-2] - window[0] + 1, device=x.device)
    columns = offsets[level, 1] + torch.arange(x.shape[-1] - window[1] + 1, device=x.device)
    return x.index_select(-2, rows).index_select(-1, columns)


def sampled_at(x: Tensor, offsets: Tensor, level: int, window: Window) -> Tensor:
    """The split batch ``(n, c, H/h, W/w)`` of ``(n, c, H, W)`` at the offset."""
    rows = offsets[level, 0] + window[0] * torch.arange(x.shape[-2] // window[0], device=x.device)
    columns = offsets[level, 1] + window[1] * torch.arange(x.shape[-1] // window[1], device=x.device)
    return x.index_select(-2, rows).index_select(-1, columns)
