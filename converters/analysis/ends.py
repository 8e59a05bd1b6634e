"""The two ends of a network: what windows of its input can stand for, and the merges that end it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from converters.analysis.convolutions import keeps_size, padding_of
from converters.analysis.levels import Levels, total_window
from converters.analysis.pointwise import is_pointwise
from converters.analysis.tracing import calls, input_of, layer_of, output_of
from converters.pooling import Window
from engines.schedules.phases import Border


@dataclass(frozen=True)
class Prefix:
    """The chain of nodes from the input that windows can stand for: splits, one convolution, pointwise layers.

    The first splits of it are those that a loop may walk by cutting windows (:mod:`converters.rewriting.windows`).
    """

    splits: tuple[fx.Node, ...]
    """In the order of their execution."""
    windows: tuple[Window, ...]
    """Of these splits."""
    conv: fx.Node | None
    """The convolution of stride 1 that keeps the size and pads with zeros."""
    windows_before_conv: int
    """How many of the splits come before it."""
    border: Border
    """Zeros that the planes need around the frame: top, left, bottom, right."""

    def moved(self, nodes: Mapping[fx.Node, fx.Node]) -> Prefix:
        """The same, of the nodes of a copy of the graph."""
        conv = None if self.conv is None else nodes[self.conv]
        splits = tuple(nodes[split] for split in self.splits)
        return Prefix(splits, self.windows, conv, self.windows_before_conv, self.border)


def prefix_of(graph: fx.GraphModule, levels: Levels) -> Prefix:
    """Follow the input as far as windows can stand for what is done to it."""
    node, conv, before = input_of(graph), None, 0
    splits: list[fx.Node] = []
    while len(node.users) == 1:
        (node,) = node.users
        if node in levels.splits:
            splits.append(node)
        elif conv is None and keeps_size(layer_of(graph, node)) and calls(graph, node) == 1:
            conv, before = node, len(splits)
        elif conv is None or not is_pointwise(graph, node):
            # A pointwise layer before the convolution would turn the zeros of the border into something else.
            break
    windows = tuple(levels.splits[split] for split in splits)
    if not splits or conv is None:
        return Prefix(tuple(splits), windows, None, 0, (0, 0, 0, 0))
    layer = layer_of(graph, conv)
    assert isinstance(layer, nn.Conv2d)
    rows, columns = total_window(windows[:before])
    top, left, bottom, right = padding_of(layer)
    border = (top * rows, left * columns, bottom * rows, right * columns)
    return Prefix(tuple(splits), windows, conv, before, border)


def tail_of(graph: fx.GraphModule, levels: Levels) -> tuple[fx.Node, ...]:
    """The merges and pointwise layers that end the network, in the order of their execution."""
    tail: list[fx.Node] = []
    node = output_of(graph).all_input_nodes[0]
    while len(node.users) == 1 and (node in levels.merges or is_pointwise(graph, node)):
        tail.insert(0, node)
        node = node.all_input_nodes[0]
    return tuple(tail)
