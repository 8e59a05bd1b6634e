"""Networks that compute the split batches at sampled offsets of their first levels: section 3.2 of the paper.

With the first splits of a network replaced by shrinks, what comes out are split batches of the full network, for a
part of its work. Here the offsets are given at every call, and the layers are the network's own: gradients reach its
parameters, and its batch norms follow its mode and move its running statistics. So a step of training and a walk over
the phases in PyTorch are one form.

What the layers before a shrink compute for other elements reaches neither the result nor its gradient, so they
compute the sampled elements alone. Pointwise layers commute with a shrink, and nested shrinks are one: let a chain of
pointwise layers and shrinks that amount to the window ``(h, w)`` and the offset ``(r, c)`` follow a convolution of
stride 1 with ``p`` zeros before and ``q`` zeros after its rows. Of its rows the chain keeps ``r, r + h, r + 2h, ...``,
and row ``r + h*i`` reads the input from row ``r + h*i - p`` on. That is the same convolution with stride ``h``,
``p - r`` zeros before (where negative, rows are left out) and ``q - (h - 1 - r)`` zeros after; columns likewise.
Where no such convolution comes before, the map is sampled as early as the chain allows.

One thing differs from computing everything and leaving out the rest: in training mode the batch norms of such a chain
take their statistics over the sampled elements, an unbiased sample of all.

The levels behind are split as ever, in training mode too, where the pooling layers themselves would shrink. The
merges at the end are left out, and the pointwise layers among them are applied to the split batches.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.convolutions import is_stepwise, padding_of
from converters.analysis.network import TracedNetwork
from converters.analysis.pointwise import is_pointwise
from converters.analysis.tracing import erase, input_of, layer_of, merge_window, split_window
from converters.pooling import Offset, Window, merge, nested_phase, shrink, split
from converters.rewriting.lowerings.strided import read_from
from engines.errors import LayoutError, NetworkError
from engines.schedules.phases import Border, Size


@dataclass(frozen=True)
class SampledNetwork:
    """A network that shrinks its first levels at offsets given at every call, and splits the others."""

    network: nn.Module
    """The user's, whose layers compute."""
    graph: fx.GraphModule
    """Its rewritten forward pass, ``(x, offsets) -> logits``."""
    windows: tuple[Window, ...]
    """Of the levels that are shrunk, outermost first."""
    dense_windows: tuple[Window, ...]
    """Of the levels whose split batches the logits hold, outermost first."""
    size_multiple: Size
    """What the sides of an image are multiples of: what the network itself says, or what its splits need."""

    def logits(self, x: Tensor, offsets: Sequence[Offset]) -> Tensor:
        """Logits at the sampled elements, before the merges.

        Args:
            x: ``(n, 3, H, W)`` normalised, on the device of the network and of its dtype.
            offsets: ``(row, column)`` inside the window of every shrunk level, outermost first.

        Returns ``(n * d, classes, i, j)``: ``d`` split batches of the dense levels, in the order in which splitting
        the elements at the offsets makes them. Raises :class:`LayoutError` for offsets that are not in the windows
        or an image that these do not divide.
        """
        if len(offsets) != len(self.windows):
            raise LayoutError(f"{len(self.windows)} levels are shrunk; received {len(offsets)} offsets")
        # Every layer and every parameter is looked up in the network at the time of the call, wherever it was moved.
        interpreter = fx.Interpreter(self.network, graph=self.graph.graph)
        interpreter.extra_traceback = False
        logits: Tensor = interpreter.run(x, tuple(offsets))
        return logits

    def merged(self, predictions: Tensor) -> Tensor:
        """Merge the dense levels: ``(n * d, c, i, j)`` of any dtype, as logits have it, -> ``(n, c, i*h, j*w)``."""
        for window in reversed(self.dense_windows):
            predictions = merge(predictions, window)
        return predictions


def sampled_from_network(network: TracedNetwork, levels: int | None = None) -> SampledNetwork:
    """Rewrite a network to shrink its first ``levels``; by default those that a walk over phases repeats no work for.

    Args:
        network: traced with its own layers (``traced_network(module, shared=True)``): its parameters and buffers are
            used where they are, and its mode is what its layers do.
        levels: 0 to ``network.most_levels``.

    Raises :class:`NetworkError` for levels that cannot be shrunk, since the phases meet before the end.
    """
    levels = network.cut_levels if levels is None else levels
    if not 0 <= levels <= network.most_levels:
        raise NetworkError(
            f"0 to {network.most_levels} levels can be shrunk: those whose merges end the network; received {levels}"
        )
    # The nodes are copied, the layers are not.
    graph = fx.GraphModule(network.graph, copy.deepcopy(network.graph.graph))
    nodes = dict(zip(network.graph.graph.nodes, graph.graph.nodes, strict=True))
    known = network.levels.moved(nodes)
    merges = [nodes[node] for node in network.tail if node in network.levels.merges]
    windows = known.stacks[merges[0].all_input_nodes[0]] if merges else ()
    for node in merges:
        erase(node)
    shrunk = {node: len(known.stacks[node]) for node in known.splits if len(known.stacks[node]) <= levels}
    with graph.graph.inserting_after(input_of(graph)):
        offsets = graph.graph.placeholder("offsets")
    # From the end on: a chain is followed from its last shrink.
    for node in reversed(list(shrunk)):
        if node in shrunk:
            chain = _chain_to(graph, node, shrunk)
            _sample(graph, chain, offsets, shrunk[node])
            for done in chain.shrinks:
                del shrunk[done]
                erase(done)
    _keep_dense(graph)
    graph.graph.lint()
    return SampledNetwork(network.module, graph, windows[:levels], windows[levels:], network.size_multiple)


@dataclass(frozen=True)
class _Chain:
    """Pointwise layers and shrinks that end with a shrink, and the convolution before them if there is one."""

    start: fx.Node
    """The convolution, else the first of the chain."""
    shrinks: list[fx.Node]
    """Outermost first."""


def _chain_to(graph: fx.GraphModule, last: fx.Node, shrunk: Iterable[fx.Node]) -> _Chain:
    node, shrinks = last, [last]
    while not _is_strideable(graph, node) or is_pointwise(graph, node):
        (before,) = node.all_input_nodes
        if len(before.users) > 1 or len(before.all_input_nodes) != 1:
            break
        if before in shrunk:
            shrinks.insert(0, before)
        elif not (is_pointwise(graph, before) or _is_strideable(graph, before)):
            break
        node = before
    return _Chain(node, shrinks)


def _is_strideable(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a convolution that is its parameters and nothing more, so that a stride can be given to it."""
    layer = layer_of(graph, node)
    if not is_stepwise(layer):
        return False
    assert layer is not None
    # Else one of them is computed from others.
    return {"weight", "bias"} <= layer._parameters.keys()


def _sample(graph: fx.GraphModule, chain: _Chain, offsets: fx.Node, level: int) -> None:
    """Compute the start of a chain, whose last shrink begins ``level``, at the sampled elements alone."""
    start, build = chain.start, graph.graph
    (source,) = start.all_input_nodes
    windows = tuple(split_window(graph, node) for node in chain.shrinks)
    first = level - len(windows)
    if not _is_strideable(graph, start):
        with build.inserting_before(start):
            sampled = build.call_function(shrunk_at, (source, offsets, first, windows))
        start.replace_input_with(source, sampled)
        return
    conv = layer_of(graph, start)
    assert isinstance(conv, nn.Conv2d)
    with build.inserting_before(start):
        weight = build.get_attr(f"{start.target}.weight")
        bias = None if conv.bias is None else build.get_attr(f"{start.target}.bias")
        settings: dict[str, Any] = {"padding": padding_of(conv), "dilation": conv.dilation, "groups": conv.groups}
        sampled = build.call_function(convolved_at, (source, offsets, first, windows, weight, bias), settings)
    start.replace_all_uses_with(sampled)
    build.erase_node(start)


def _keep_dense(graph: fx.GraphModule) -> None:
    """Pooling layers that are left as functions, which split and merge in every mode."""
    for node in list(graph.graph.nodes):
        for function, window in ((split, split_window(graph, node)), (merge, merge_window(graph, node))):
            if window is not None and node.op == "call_module":
                with graph.graph.inserting_before(node):
                    pooled = graph.graph.call_function(function, (node.all_input_nodes[0], window))
                node.replace_all_uses_with(pooled)
                graph.graph.erase_node(node)


def convolved_at(
    x: Tensor,
    offsets: Sequence[Offset],
    first: int,
    windows: Sequence[Window],
    weight: Tensor,
    bias: Tensor | None,
    *,
    padding: Border,
    dilation: tuple[int, int],
    groups: int,
) -> Tensor:
    """A convolution of stride 1, shrunk by ``windows`` at the offsets from level ``first`` on, counted from 0."""
    window, phase = nested_phase(list(windows), list(offsets[first : first + len(windows)]))
    top, left, bottom, right = padding
    rows = x.shape[-2] + top + bottom - dilation[0] * (weight.shape[-2] - 1)
    columns = x.shape[-1] + left + right - dilation[1] * (weight.shape[-1] - 1)
    if rows % window[0] or columns % window[1]:
        raise LayoutError(
            f"a window of {window[0]}x{window[1]} does not divide a map of {rows}x{columns} (height x width); "
            "pad the image to a multiple of the windows"
        )
    read = read_from(x, phase, window, padding)
    return F.conv2d(read, weight, bias, stride=window, dilation=dilation, groups=groups)


def shrunk_at(x: Tensor, offsets: Sequence[Offset], first: int, windows: Sequence[Window]) -> Tensor:
    """A map, shrunk by ``windows`` at the offsets from level ``first`` on; a copy, for layers that write in place."""
    window, phase = nested_phase(list(windows), list(offsets[first : first + len(windows)]))
    return shrink(x, window, phase).contiguous()
