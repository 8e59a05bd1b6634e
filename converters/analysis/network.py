"""A traced network as one value: what rewrites, trunks, proofs and references are made from."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import fx, nn

from converters.analysis.comparing import is_same_graph
from converters.analysis.ends import Prefix, prefix_of, tail_of
from converters.analysis.folding import fold_batch_norms
from converters.analysis.levels import Levels, levels_from_graph, size_multiple_of
from converters.analysis.modules import called_modules
from converters.analysis.pinning import pinnable_splits
from converters.analysis.tracing import USUAL_SIZE, graph_from_network, shared_graph, trace_of
from converters.pooling import SplitPool2d, Window
from engines.errors import NetworkError
from engines.schedules.phases import Size, padded_size


@dataclass(frozen=True, eq=False)
class TracedNetwork:
    """A network, understood. Made once, by :func:`traced_network`.

    Everything here is of the nodes of ``graph``, and nobody changes that graph: a rewrite takes :meth:`copied`, and
    carries what is known over to its copy.
    """

    module: nn.Module
    """The network as it was handed over: ``(n, 3, H, W)`` float32, normalised -> logits ``(n, classes, H, W)``.

    What a rewrite is proven against, and what reference outputs are computed with.
    """
    graph: fx.GraphModule
    """Its trace: modules have the paths of ``module``, pooling layers and PyTorch's own layers are single nodes.

    Its layers are copies in evaluation mode whose parameters want no gradients, with batch norms folded into the
    convolutions before them; or the network's own, where it was traced for that.
    """
    levels: Levels
    """Splits, merges, the stack of windows at every node, and what may change places with a split."""
    prefix: Prefix
    """The beginning, as far as windows cut from the input can stand for it."""
    tail: tuple[fx.Node, ...]
    """The merges and pointwise layers that end the network, in the order of their execution; perhaps none."""
    size_multiple: Size
    """What the sides of an input are multiples of: what the network itself says, or what its splits need."""
    size: Size
    """Of the padded frames that it was traced for; what it decides by shapes, it decides as for these."""
    shared: bool
    """Whether the layers of ``graph`` are those of ``module``, in the mode they are in."""
    split_layers: tuple[tuple[SplitPool2d, ...], ...]
    """The split layers of ``module`` by level, outermost first, for :func:`converters.pooling.pinned_offsets`.

    They end before the first level whose layers cannot be pinned (functional pooling, shared offsets).
    """

    @property
    def windows(self) -> tuple[Window, ...]:
        """The pooling windows of all levels, outermost first."""
        return self.levels.windows

    @cached_property
    def held_levels(self) -> Mapping[fx.Node, int]:
        """The merges before the end of the network, and the level, from 1, that each undoes: there phases meet."""
        tail, stacks = set(self.tail), self.levels.stacks
        return {node: len(stacks[node]) + 1 for node in self.levels.merges if node not in tail}

    @property
    def most_levels(self) -> int:
        """How many levels a loop can walk: those whose merges all stand at the end of the network."""
        return min(self.held_levels.values(), default=len(self.windows) + 1) - 1

    @property
    def cut_levels(self) -> int:
        """How many levels windows of the input can stand for: walking these repeats no work."""
        return min(len(self.prefix.splits), self.most_levels)

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of the layers that the network calls, each once, in the order of their execution."""
        return tuple(called_modules(self.graph))

    def at(self, size: Size) -> TracedNetwork:
        """The network for frames of another size: the same where it decides nothing by shapes, else traced anew.

        Raises :class:`NetworkError` as :func:`traced_network` does.
        """
        if size == self.size or not trace_of(self.graph).decided:
            return self
        return traced_network(self.module, size, shared=self.shared)

    def is_the_same_at(self, size: Size) -> bool:
        """Whether its graph for padded frames of another size is this one: whether it decides all as for its own."""
        try:
            other = self.at(size)
        except NetworkError:
            # It may refuse small frames.
            return False
        return other is self or (other.size == size and is_same_graph(self.graph, other.graph))

    def copied(self) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
        """A copy of the graph that may be changed, layers and parameters included, and its node for each node."""
        return copied_graph(self.graph)


def copied_graph(graph: fx.GraphModule) -> tuple[fx.GraphModule, dict[fx.Node, fx.Node]]:
    """A deep copy of a graph, and the copy's node for each of its nodes: by these what is known is carried over."""
    made = copy.deepcopy(graph)
    return made, dict(zip(graph.graph.nodes, made.graph.nodes, strict=True))


def traced_network(network: nn.Module, size: Size = USUAL_SIZE, *, shared: bool = False) -> TracedNetwork:
    """Trace a network and find, once, all that is to be known of it. The network itself is left unchanged.

    Args:
        network: maps ``(n, 3, H, W)`` float32 to logits ``(n, classes, H, W)``.
        size: of the frames that it is for, ``(height, width)``; padded where the network needs a multiple.
        shared: whether the layers of the graph are the network's own, in the mode they are in, with batch norms as they
            are: for a network that is to be trained.

    Raises :class:`NetworkError`, naming the layer, where it cannot be traced, or where splits and merges do not fit
    together.
    """
    trace = shared_graph if shared else graph_from_network
    padded = size
    while True:
        graph = trace(network, padded)
        if not shared:
            fold_batch_norms(graph)
        levels = levels_from_graph(graph)
        multiple = size_multiple_of(network, graph, levels)
        padded = padded_size(size, multiple)
        if padded == trace_of(graph).size:
            break
        # A split that came out even at this size does not at every size.
        size = padded
    return TracedNetwork(
        module=network,
        graph=graph,
        levels=levels,
        prefix=prefix_of(graph, levels),
        tail=tail_of(graph, levels),
        size_multiple=multiple,
        size=padded,
        shared=shared,
        split_layers=pinnable_splits(network, graph, levels),
    )
