"""Levels: which splits lie before every point of a network.

A split pushes its window on the stack of the feature map, a merge pops it. Where branches meet, their stacks
must be the same; at the output the stack must be empty. The depth of a stack is the level of that point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx, nn

from converters.analysis.tracing import merge_window, name_of, output_of, split_window
from converters.pooling import Window
from engines.errors import NetworkError
from engines.schedules.phases import Size


@dataclass(frozen=True)
class Levels:
    """The split windows before every node of a graph."""

    stacks: dict[fx.Node, tuple[Window, ...]]
    """Windows of the splits that a node's output has gone through and that no merge has undone, outermost first.

    Nodes that do not depend on the input have none.
    """

    @property
    def windows(self) -> list[Window]:
        """The windows of the deepest point of the network, in the order of their levels."""
        deepest: tuple[Window, ...] = max(self.stacks.values(), key=len)
        return list(deepest)

    @property
    def size_multiple(self) -> Size:
        """What the sides of an input must be multiples of for every split to come out even."""
        totals = [total_window(stack) for stack in self.stacks.values()]
        return math.lcm(*(height for height, _ in totals)), math.lcm(*(width for _, width in totals))


def total_window(windows: Sequence[Window]) -> Window:
    """The one window that nested windows amount to."""
    return math.prod(h for h, _ in windows), math.prod(w for _, w in windows)


def levels_within(windows: Sequence[Window], window: Window) -> int | None:
    """How many of the first windows together make ``window``; ``None`` where no number of them does."""
    return next((n for n in range(len(windows) + 1) if total_window(windows[:n]) == window), None)


def levels_from_graph(graph: fx.GraphModule) -> Levels:
    """Follow the splits through a traced network.

    Raises :class:`NetworkError`, naming the layer, where a merge undoes another window than the innermost, where
    branches of different levels meet, or when something is left unmerged.
    """
    stacks = stacks_from_graph(graph)
    if left := stacks.get(output_of(graph), ()):
        raise NetworkError(f"the network's output is not merged: it is {_shown(left)}; add the missing MergePool2d")
    return Levels(stacks)


def stacks_from_graph(graph: fx.GraphModule) -> dict[fx.Node, tuple[Window, ...]]:
    """The split windows before every node that depends on an input; the output may be left unmerged."""
    stacks: dict[fx.Node, tuple[Window, ...]] = {}
    for node in graph.graph.nodes:
        if node.op != "placeholder" and not any(before in stacks for before in node.all_input_nodes):
            # A parameter, a constant, or what is computed from these alone: it fits any level.
            continue
        incoming = {stacks[before] for before in node.all_input_nodes if before in stacks}
        if len(incoming) > 1:
            shown = " and ".join(sorted(_shown(stack) for stack in incoming))
            raise NetworkError(f"branches of different levels meet at {name_of(node)}: {shown}")
        stack = incoming.pop() if incoming else ()
        if (window := split_window(graph, node)) is not None:
            stack = (*stack, window)
        elif (window := merge_window(graph, node)) is not None:
            if not stack or stack[-1] != window:
                raise NetworkError(
                    f"{name_of(node)} merges a window of {window[0]}x{window[1]}, but what comes in is {_shown(stack)}"
                )
            stack = stack[:-1]
        stacks[node] = stack
    return stacks


def size_multiple_of(network: nn.Module, levels: Levels) -> Size:
    """What the sides of an image must be multiples of: the network's ``size_multiple``, else what its splits need.

    Raises :class:`NetworkError` when the attribute is no pair of positive numbers.
    """
    multiple = getattr(network, "size_multiple", levels.size_multiple)
    try:
        rows, columns = (int(side) for side in multiple)
    except (TypeError, ValueError):
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise NetworkError(f"size_multiple is a pair of positive numbers, (rows, columns); received {multiple!r}")
    return rows, columns


def _shown(stack: tuple[Window, ...]) -> str:
    return "split by " + ", ".join(f"{h}x{w}" for h, w in stack) if stack else "not split"
