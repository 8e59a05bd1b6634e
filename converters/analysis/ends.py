"""The two ends of a network: what windows of its input can stand for, and the merges that end it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from converters.analysis.convolutions import keeps_size, padding_of, zeros_around
from converters.analysis.levels import Levels, total_window
from converters.analysis.pointwise import is_pointwise
from converters.analysis.tracing import calls, input_of, layer_of, output_of
from converters.pooling import Window
from engines.schedules.phases import Border

_NOTHING: Border = (0, 0, 0, 0)


@dataclass(frozen=True)
class Prefix:
    """The chain of nodes from the input that windows can stand for: splits, one convolution, pointwise layers.

    The first splits of it are those that a loop may walk by cutting windows (:mod:`converters.rewriting.windows`).
    """

    splits: tuple[fx.Node, ...]
    """In the order of their execution."""
    windows: tuple[Window, ...]
    """Of these splits."""
    pad: fx.Node | None
    """What adds zeros for the convolution, where it does not add all of them itself."""
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
        pad = None if self.pad is None else nodes[self.pad]
        return Prefix(splits, self.windows, pad, conv, self.windows_before_conv, self.border)


def prefix_of(graph: fx.GraphModule, levels: Levels) -> Prefix:
    """Follow the input as far as windows can stand for what is done to it."""
    node, conv, pad, before = input_of(graph), None, None, 0
    splits: list[fx.Node] = []
    while len(node.users) == 1:
        (node,) = node.users
        if node in levels.splits:
            splits.append(node)
        elif conv is None and (found := _convolution(graph, node)) is not None:
            pad, conv = found
            node, before = conv, len(splits)
        elif conv is None or not is_pointwise(graph, node):
            # A pointwise layer before the convolution would turn the zeros of the border into something else.
            break
    windows = tuple(levels.splits[split] for split in splits)
    if not splits or conv is None:
        return Prefix(tuple(splits), windows, None, None, 0, (0, 0, 0, 0))
    layer = layer_of(graph, conv)
    assert isinstance(layer, nn.Conv2d)
    rows, columns = total_window(windows[:before])
    added = _NOTHING if pad is None else zeros_around(layer_of(graph, pad), pad)
    assert added is not None
    top, left, bottom, right = (own + more for own, more in zip(padding_of(layer), added, strict=True))
    border = (top * rows, left * columns, bottom * rows, right * columns)
    return Prefix(tuple(splits), windows, pad, conv, before, border)


def _convolution(graph: fx.GraphModule, node: fx.Node) -> tuple[fx.Node | None, fx.Node] | None:
    """A convolution that keeps the size, at ``node`` or behind zeros that ``node`` adds for it, and these."""
    added, pad = zeros_around(layer_of(graph, node), node), None
    if added is not None and len(node.users) == 1:
        pad, (node,) = node, node.users
    if keeps_size(layer_of(graph, node), added or _NOTHING) and calls(graph, node) == 1:
        return pad, node
    return None


def tail_of(graph: fx.GraphModule, levels: Levels) -> tuple[fx.Node, ...]:
    """The merges and pointwise layers that end the network, in the order of their execution."""
    tail: list[fx.Node] = []
    node = output_of(graph).all_input_nodes[0]
    while len(node.users) == 1 and (node in levels.merges or is_pointwise(graph, node)):
        tail.insert(0, node)
        node = node.all_input_nodes[0]
    return tuple(tail)
