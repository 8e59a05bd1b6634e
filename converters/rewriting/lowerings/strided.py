"""Splits as strided convolutions, concatenated on the batch axis.

Let a split of window ``(h, w)`` follow a convolution of stride 1 with ``p`` zeros before and ``q`` zeros after the
rows. Split batch ``r`` holds its rows ``r, r + h, r + 2h, ...``, and row ``r + h*i`` reads the input from row
``r + h*i - p`` on. So split batch ``r`` is the same convolution with stride ``h`` and ``p - r`` zeros before (where
negative, rows are left out); it ends ``h - 1 - r`` rows earlier, hence ``q - (h - 1 - r)`` zeros after. Columns
likewise. The ``h*w`` results are concatenated, and no transpose is left. Pointwise layers in between commute with
the split, and what follows no convolution is sampled by strided slices.

Concatenation makes the phase the outermost part of the batch axis: split is ``n c (i h) (j w) -> (h w n) c i j``
here, and merge its inverse. No layer looks from one entry of the batch to another, so the order changes nothing.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.convolutions import is_stepwise, padding_of
from converters.analysis.network import copied_graph
from converters.analysis.pointwise import is_pointwise
from converters.analysis.tracing import erase, finish, layer_of
from converters.pooling import Window
from converters.rewriting.loops import LoopedNetwork
from converters.rewriting.lowerings.base import LoweredNetwork
from engines.schedules.phases import Border
from engines.schedules.schedule import Lowering


def strided(network: LoopedNetwork) -> LoweredNetwork:
    """Every split inside becomes strided convolutions or slices, every merge takes the phase from outermost."""
    graph, nodes = copied_graph(network.graph)
    inside = network.inside.moved(nodes)
    for split, window in inside.splits.items():
        _split_by_strides(graph, split, inside.producers[split], window)
    for node, window in inside.merges.items():
        with graph.graph.inserting_before(node):
            merged = graph.graph.call_function(merge_outermost, (node.args[0], window))
        node.replace_all_uses_with(merged)
        graph.graph.erase_node(node)
    finish(graph)
    merges = tuple(partial(merge_outermost, window=window) for window in network.merges)
    return LoweredNetwork(network, Lowering.STRIDED, graph, merges)


def merge_outermost(x: Tensor, window: Window) -> Tensor:
    """``(h w n) c i j -> n c (i h) (j w)``."""
    h, w = window
    _, channels, i, j = x.shape
    return x.reshape(h, w, -1, channels, i, j).permute(2, 3, 4, 0, 5, 1).reshape(-1, channels, i * h, j * w)


def _split_by_strides(graph: fx.GraphModule, split: fx.Node, producer: fx.Node, window: Window) -> None:
    h, w = window
    source, layer = producer.args[0], layer_of(graph, producer)
    convolves = is_stepwise(layer) and not is_pointwise(graph, producer)
    padding: Border = (0, 0, 0, 0)
    if convolves:
        assert isinstance(layer, nn.Conv2d)
        padding = padding_of(layer)
        layer.stride, layer.padding = window, (0, 0)
    parts = []
    with graph.graph.inserting_before(producer):
        for row in range(h):
            for column in range(w):
                if convolves:
                    read = graph.graph.call_function(read_from, (source, (row, column), window, padding))
                    parts.append(graph.graph.call_module(str(producer.target), (read,)))
                else:
                    parts.append(graph.graph.call_function(every, (source, (row, column), window)))
        together = graph.graph.call_function(torch.cat, (parts, 0))
    if convolves:
        producer.replace_all_uses_with(together)
        graph.graph.erase_node(producer)
    else:
        producer.args = (together, *producer.args[1:])
    erase(split)


def read_from(x: Tensor, phase: Window, window: Window, padding: Border) -> Tensor:
    """What the strided convolution of one phase reads: zeros added, or rows and columns left out, at each side."""
    top, left, bottom, right = padding
    (row, column), (h, w) = phase, window
    before, after = (top - row, left - column), (bottom - (h - 1 - row), right - (w - 1 - column))
    x = x[
        ..., max(-before[0], 0) : x.shape[-2] - max(-after[0], 0), max(-before[1], 0) : x.shape[-1] - max(-after[1], 0)
    ]
    zeros = (max(before[1], 0), max(after[1], 0), max(before[0], 0), max(after[0], 0))
    return F.pad(x, zeros) if any(zeros) else x


def every(x: Tensor, phase: Window, window: Window) -> Tensor:
    """One split batch by strided slicing."""
    return x[..., phase[0] :: window[0], phase[1] :: window[1]]
