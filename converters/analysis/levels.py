"""Levels: which splits lie before every point of a network.

A split pushes its window on the stack of the feature map, a merge pops it. Where branches meet, their stacks
must be the same; at the output the stack must be empty. The depth of a stack is the level of that point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import fx, nn

from converters.analysis.convolutions import is_stepwise
from converters.analysis.pointwise import is_pointwise
from converters.analysis.recording import fits_any_level
from converters.analysis.tracing import (
    calls,
    layer_of,
    merge_window,
    name_of,
    output_of,
    own_multiple,
    split_window,
    trace_of,
)
from converters.pooling import MergePool2d, SharedOffset, SplitPool2d, Window
from engines.errors import NetworkError
from engines.schedules.phases import Size


@dataclass(frozen=True)
class Levels:
    """The splits and merges of a graph, and which splits lie before every node."""

    stacks: Mapping[fx.Node, tuple[Window, ...]]
    """Windows of the splits that a node's output has gone through and that no merge has undone, outermost first.

    Nodes that do not depend on the input have none.
    """
    splits: Mapping[fx.Node, Window]
    """Nodes that split, by layer or by function, in the order of their execution."""
    merges: Mapping[fx.Node, Window]
    """Nodes that merge, likewise."""
    producers: Mapping[fx.Node, fx.Node]
    """By split: the first node of the chain to it that may as well come after it, a convolution of stride 1 or what
    commutes with a split; the split itself where there is no such chain."""

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows of the deepest point of the network, in the order of their levels."""
        return max(self.stacks.values(), key=len, default=())

    @property
    def size_multiple(self) -> Size:
        """What the sides of an input must be multiples of for every split to come out even."""
        totals = [total_window(stack) for stack in self.stacks.values()]
        return math.lcm(*(height for height, _ in totals)), math.lcm(*(width for _, width in totals))

    def moved(self, nodes: Mapping[fx.Node, fx.Node]) -> Levels:
        """The same, of the nodes of a copy of the graph; what the copy lacks is left out."""
        return Levels(
            {nodes[node]: stack for node, stack in self.stacks.items() if node in nodes},
            {nodes[node]: window for node, window in self.splits.items() if node in nodes},
            {nodes[node]: window for node, window in self.merges.items() if node in nodes},
            {nodes[split]: nodes[producer] for split, producer in self.producers.items() if split in nodes},
        )


def total_window(windows: Sequence[Window]) -> Window:
    """The one window that nested windows amount to."""
    return math.prod(h for h, _ in windows), math.prod(w for _, w in windows)


def levels_within(windows: Sequence[Window], window: Window) -> int | None:
    """How many of the first windows together make ``window``; ``None`` where no number of them does."""
    return next((n for n in range(len(windows) + 1) if total_window(windows[:n]) == window), None)


def levels_from_graph(graph: fx.GraphModule) -> Levels:
    """Follow the splits through a traced network.

    Raises :class:`NetworkError`, naming the layer, where a merge undoes another split than the innermost, where
    branches of different levels meet, or when something is left unmerged.
    """
    opened: dict[fx.Node, tuple[frozenset[SharedOffset], ...]] = {}
    stacks: dict[fx.Node, tuple[Window, ...]] = {}
    splits: dict[fx.Node, Window] = {}
    merges: dict[fx.Node, Window] = {}
    for node in graph.graph.nodes:
        made = node.op == "placeholder" or any(before in stacks for before in node.all_input_nodes)
        pools = split_window(graph, node) is not None or merge_window(graph, node) is not None
        if fits_any_level(node) or not (made or pools):
            # A parameter, a constant, a size, or what is computed from these alone.
            continue
        incoming = {stacks[before] for before in node.all_input_nodes if before in stacks}
        if len(incoming) > 1:
            shown = " and ".join(sorted(_shown(stack) for stack in incoming))
            raise NetworkError(f"branches of different levels meet at {name_of(node)}: {shown}")
        stack = incoming.pop() if incoming else ()
        open_splits = _joined([opened[before] for before in node.all_input_nodes if before in stacks])
        pool = layer_of(graph, node)
        shared = frozenset({pool.shared} if isinstance(pool, (SplitPool2d, MergePool2d)) else ())
        if (window := split_window(graph, node)) is not None:
            splits[node] = window
            stack, open_splits = (*stack, window), (*open_splits, shared)
        elif (window := merge_window(graph, node)) is not None:
            if not stack or stack[-1] != window:
                raise NetworkError(
                    f"{name_of(node)} merges a window of {window[0]}x{window[1]}, but what comes in is {_shown(stack)}"
                )
            _check_innermost(node, shared, open_splits)
            merges[node] = window
            stack, open_splits = stack[:-1], open_splits[:-1]
        stacks[node], opened[node] = stack, open_splits
    if left := stacks.get(output_of(graph), ()):
        raise NetworkError(f"the network's output is not merged: it is {_shown(left)}; add the missing MergePool2d")
    return Levels(stacks, splits, merges, {split: _producer_of(graph, split) for split in splits})


def _joined(branches: Sequence[tuple[frozenset[SharedOffset], ...]]) -> tuple[frozenset[SharedOffset], ...]:
    """By level: the offsets of the splits, in all branches that meet."""
    return tuple(frozenset().union(*level) for level in zip(*branches, strict=True))


def _check_innermost(node: fx.Node, merged: frozenset[SharedOffset], opened: Sequence[frozenset[SharedOffset]]) -> None:
    """Raise :class:`NetworkError` for the merge of a split that another one is open inside of.

    Of two equal windows either order is right where all is split and merged. Where one element is sampled, as in
    training, the values come to lie at pixels that they were not computed for.
    """
    *outer, innermost = opened
    for level, offsets in enumerate(outer, 1):
        if merged & offsets and not merged & innermost:
            raise NetworkError(
                f"{name_of(node)} merges the split of level {level}, while that of level {len(opened)} is still open: "
                "merge the innermost split first"
            )


def _producer_of(graph: fx.GraphModule, split: fx.Node) -> fx.Node:
    node = split
    while True:
        before = node.args[0]
        if not isinstance(before, fx.Node) or len(before.users) > 1 or len(before.all_input_nodes) != 1:
            return node
        if is_pointwise(graph, before):
            node = before
        elif is_stepwise(layer_of(graph, before)) and calls(graph, before) == 1:
            return before
        else:
            return node


def size_multiple_of(network: nn.Module, graph: fx.GraphModule, levels: Levels) -> Size:
    """What the sides of an image must be multiples of: the network's ``size_multiple``, else what its splits need.

    Raises :class:`NetworkError` when the attribute is no pair of positive numbers.
    """
    if (own := own_multiple(network)) is not None:
        return own
    (rows, columns), (others, beside) = trace_of(graph).multiple, levels.size_multiple
    return math.lcm(rows, others), math.lcm(columns, beside)


def _shown(stack: tuple[Window, ...]) -> str:
    return "split by " + ", ".join(f"{h}x{w}" for h, w in stack) if stack else "not split"
