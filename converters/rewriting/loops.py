"""Networks rewritten so that a loop can walk the phases of their first levels (facts 6 and 7 of docs/concepts.md).

The first levels that windows of the input can stand for are cut there; the offset of every further level acts
inside the network.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from converters.analysis.levels import Levels, total_window
from converters.analysis.network import TracedNetwork
from converters.analysis.tracing import erase, finish, input_of, name_of
from converters.pooling import Window
from converters.rewriting.shrinks import shrink_at_offset
from converters.rewriting.windows import read_windows, strided_convolution
from engines.errors import NetworkError
from engines.schedules.phases import Border, PhaseGrid, Size


@dataclass(frozen=True, eq=False)
class LoopedNetwork:
    """A network that computes one phase of its first levels, and gives logits before its last merges.

    Nobody changes its graph: a lowering works on a copy.
    """

    graph: fx.GraphModule
    """``(n, 3, H', W')`` normalised windows of ``n`` phases -> logits ``(n * split batches, classes, i, j)``.

    With inner windows there is a second input, ``offsets``: int64 ``(inner levels, 2)``, shared by the phases.
    """
    inside: Levels
    """The splits and merges that are left in the graph; stacks begin after the levels that the loop walks."""
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

    def grid(self, frame_size: Size, padded_size: Size) -> PhaseGrid:
        """The phases that the loop walks, for frames of a size."""
        return PhaseGrid(frame_size, padded_size, self.cut_window, self.border, self.inner_windows)


def looped_from_network(network: TracedNetwork, levels: int | None = None) -> LoopedNetwork:
    """Rewrite a network for a loop over its first ``levels``, by default those that repeat no work.

    Pointwise layers among the last merges are moved before them. Raises :class:`NetworkError`, naming the layer,
    where a merge of such a level is followed by more than pointwise layers and merges: there the phases meet.
    """
    levels = network.cut_levels if levels is None else levels
    _check_walkable(network, levels)
    cut = min(levels, len(network.prefix.splits))
    graph, nodes = network.copied()
    read_windows(graph, network.prefix.moved(nodes), cut)
    inner = network.windows[cut:levels]
    if inner:
        _shrink_inside(graph, network.levels.moved(nodes), cut, levels)
    merges = [node for node in network.tail if node in network.levels.merges]
    for node in merges:
        erase(nodes[node])
    finish(graph)
    return LoopedNetwork(
        graph=graph,
        inside=_left_inside(network, cut, levels, nodes),
        levels=levels,
        cut_window=total_window(network.prefix.windows[:cut]),
        inner_windows=inner,
        border=network.prefix.border,
        merges=tuple(network.levels.merges[node] for node in merges[: len(merges) - levels]),
    )


def _check_walkable(network: TracedNetwork, levels: int) -> None:
    if not 0 <= levels <= len(network.windows):
        raise NetworkError(f"the network has {len(network.windows)} levels of splits; {levels} cannot be walked")
    for node, level in network.held_levels.items():
        if level <= levels:
            raise NetworkError(
                f"levels {levels} cannot be walked phase by phase: {name_of(node)} merges level {level} before the "
                "end of the network, and what follows looks at all its phases"
            )


def _shrink_inside(graph: fx.GraphModule, known: Levels, cut: int, levels: int) -> None:
    """Make the splits of the levels after ``cut``, up to ``levels``, shrinks at offsets that are an input."""
    with graph.graph.inserting_after(input_of(graph)):
        offsets = graph.graph.placeholder("offsets")
    for split, window in known.splits.items():
        if cut < (level := len(known.stacks[split])) <= levels:
            shrink_at_offset(graph, split, known.producers[split], window, offsets, level - cut - 1)


def _left_inside(network: TracedNetwork, cut: int, levels: int, nodes: dict[fx.Node, fx.Node]) -> Levels:
    """What the loop and the last merges leave, on the nodes of the rewritten copy."""
    known, tail = network.levels, set(network.tail)
    # The merges of the tail are gone, so its pointwise layers are where it begins.
    at_tail = known.stacks[network.tail[0].all_input_nodes[0]] if network.tail else ()
    strided = strided_convolution(network.prefix, cut)
    splits = {node: window for node, window in known.splits.items() if len(known.stacks[node]) > levels}
    left = Levels(
        {node: (at_tail if node in tail else stack)[levels:] for node, stack in known.stacks.items()},
        splits,
        {node: window for node, window in known.merges.items() if node not in tail},
        {node: _after(producer) if (producer := known.producers[node]) is strided else producer for node in splits},
    )
    gone = (known.splits.keys() - splits.keys()) | (known.merges.keys() & tail)
    return left.moved({node: copied for node, copied in nodes.items() if node not in gone})


def _after(node: fx.Node) -> fx.Node:
    """The next node of a chain."""
    (user,) = node.users
    return user
