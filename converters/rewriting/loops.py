"""Networks rewritten so that a loop can walk the phases of their first levels (facts 6 and 7 of docs/concepts.md).

The first levels that windows of the input can stand for are cut there; the offset of every further level acts
inside the network.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import fx

from converters.analysis.levels import Levels, levels_from_graph, total_window
from converters.analysis.pointwise import is_pointwise
from converters.analysis.tracing import erase, input_of, merge_window, name_of, output_of, split_window
from converters.pooling import Window
from converters.rewriting.shrinks import shrink_at_offset
from converters.rewriting.windows import prefix_of, read_windows
from engines.errors import NetworkError
from engines.schedules.phases import Border


@dataclass(frozen=True)
class LoopedNetwork:
    """A network that computes one phase of its first levels, and gives logits before its last merges."""

    graph: fx.GraphModule
    """``(n, 3, H', W')`` normalised windows of ``n`` phases -> logits ``(n * split batches, classes, i, j)``.

    With inner windows there is a second input, ``offsets``: int64 ``(inner levels, 2)``, shared by the phases.
    """
    levels: int
    """Splits that the loop stands for."""
    cut_window: Window
    """What the levels whose offset is where a window is cut amount to."""
    inner_windows: tuple[Window, ...]
    """The windows of the levels whose offset acts inside, outermost first."""
    border: Border
    """Zeros that the input needs around it: top, left, bottom, right."""
    merges: tuple[Window, ...]
    """Merges still to be done on the predictions, in the order of their execution."""


def most_levels(graph: fx.GraphModule) -> int:
    """How many levels a loop can walk: those whose merges all stand at the end of the network."""
    levels = levels_from_graph(graph)
    held = _held_levels(graph, levels)
    return min(held.values(), default=len(levels.windows) + 1) - 1


def cut_levels(graph: fx.GraphModule) -> int:
    """How many levels windows of the input can stand for: walking these repeats no work."""
    return min(len(prefix_of(graph).splits), most_levels(graph))


def looped_from_graph(graph: fx.GraphModule, levels: int | None = None) -> LoopedNetwork:
    """Rewrite a copy of a traced network for a loop over its first ``levels``, :func:`cut_levels` by default.

    Pointwise layers among the last merges are moved before them. Raises :class:`NetworkError`, naming the layer,
    where a merge of such a level is followed by more than pointwise layers and merges: there the phases meet.
    """
    graph = copy.deepcopy(graph)
    known = levels_from_graph(graph)
    levels = cut_levels(graph) if levels is None else levels
    if not 0 <= levels <= len(known.windows):
        raise NetworkError(f"the network has {len(known.windows)} levels of splits; {levels} cannot be walked")
    for node, level in _held_levels(graph, known).items():
        if level <= levels:
            raise NetworkError(
                f"levels {levels} cannot be walked phase by phase: {name_of(node)} merges level {level} before the "
                "end of the network, and what follows looks at all its phases"
            )
    prefix, tail = prefix_of(graph), tail_of(graph)
    cut = min(levels, len(prefix.splits))
    inner = tuple(known.windows[cut:levels])
    deeper = [
        (node, window, len(known.stacks[node]) - cut - 1)
        for node in graph.graph.nodes
        if (window := split_window(graph, node)) is not None and cut < len(known.stacks[node]) <= levels
    ]
    merges = [(node, window) for node in tail if (window := merge_window(graph, node)) is not None]
    read_windows(graph, prefix, cut)
    if inner:
        with graph.graph.inserting_after(input_of(graph)):
            offsets = graph.graph.placeholder("offsets")
        for node, window, level in deeper:
            shrink_at_offset(graph, node, window, offsets, level)
    for node, _ in merges:
        erase(node)
    graph.graph.lint()
    graph.recompile()
    left = tuple(window for _, window in merges[: len(merges) - levels])
    return LoopedNetwork(graph, levels, total_window(prefix.windows[:cut]), inner, prefix.border, left)


def _held_levels(graph: fx.GraphModule, levels: Levels) -> dict[fx.Node, int]:
    """The merges before the end of the network, and the level that each undoes."""
    tail = set(tail_of(graph))
    return {
        node: len(stack) + 1
        for node, stack in levels.stacks.items()
        if merge_window(graph, node) is not None and node not in tail
    }


def tail_of(graph: fx.GraphModule) -> list[fx.Node]:
    """The merges and pointwise layers that end the network, in the order of their execution."""
    tail: list[fx.Node] = []
    node = output_of(graph).all_input_nodes[0]
    while len(node.users) == 1 and (merge_window(graph, node) is not None or is_pointwise(graph, node)):
        tail.insert(0, node)
        node = node.all_input_nodes[0]
    return tail
