"""The first splits of a network as windows cut from its input.

Let a network begin with splits, one convolution of kernel ``k``, dilation ``d`` and zero padding, and then
pointwise layers and splits, ``L`` splits in all with windows that amount to ``(h, w)``, of which ``(g, f)``
before the convolution. Pointwise layers commute with splits, and convolving split batches is convolving the
full grid with a dilation of ``(g, f)`` times as much. So the split batch of phase ``(row, column)`` is the
convolution with stride ``(h, w)`` and dilation ``(d*g, d*f)``, without padding, of the window that begins at
``(row, column)`` of the zero-padded input: the phases are independent from the first operation on, and all
together cost what the whole costs.
"""

from __future__ import annotations

import copy
import operator
from dataclasses import dataclass

from torch import fx, nn

from converters.pooling import Window
from converters.rewriting.levels import levels_from_graph, total_window
from converters.rewriting.pointwise import is_pointwise
from converters.rewriting.tracing import erase, input_of, layer_of, merge_window, output_of, split_window
from engines.phases import Border


@dataclass(frozen=True)
class WindowedNetwork:
    """A network rewritten to take windows and to give logits before its last merges."""

    graph: fx.GraphModule
    """``(n, 3, H', W')`` normalised windows of ``n`` phases -> logits ``(n * split batches, classes, i, j)``."""
    levels: int
    """Splits that the windows stand for."""
    window: Window
    """What these splits amount to."""
    border: Border
    """Zeros that the input needs around it: top, left, bottom, right."""
    inner_merges: list[Window]
    """Merges still to be done on the predictions, in the order of their execution."""


@dataclass(frozen=True)
class _Prefix:
    """The chain of nodes from the input that windows can stand for."""

    splits: list[fx.Node]
    windows: list[Window]
    conv: fx.Node | None
    windows_before_conv: int


def windows_from_graph(graph: fx.GraphModule) -> WindowedNetwork:
    """Rewrite a copy of a traced network for as many levels as its beginning and its end allow, none at all included.

    Pointwise layers among the last merges are moved before them.
    """
    graph = copy.deepcopy(graph)
    stacks = levels_from_graph(graph).stacks
    prefix = _prefix(graph)
    tail = _tail(graph)
    inside = [node for node in graph.graph.nodes if node not in tail and node.op != "output"]
    levels = len(prefix.splits)
    # A merge of an outer level that is not at the end (say, split, merge, split, merge) ties phases together.
    last_of_prefix = prefix.splits[-1] if prefix.splits else None
    after = inside[inside.index(last_of_prefix) :] if last_of_prefix is not None else []
    if any(len(stacks[node]) < levels for node in after if node in stacks):
        prefix, levels = _Prefix([], [], None, 0), 0
    merges = [window for node in tail if (window := merge_window(graph, node)) is not None]
    inner_merges = merges[: len(merges) - levels]
    window = total_window(prefix.windows)
    border = _widen(graph, prefix, window)
    for node in prefix.splits:
        erase(node)
    for node in tail:
        if merge_window(graph, node) is not None:
            erase(node)
    graph.graph.lint()
    graph.recompile()
    return WindowedNetwork(graph, levels, window, border, inner_merges)


def _prefix(graph: fx.GraphModule) -> _Prefix:
    node, conv, before = input_of(graph), None, 0
    splits: list[fx.Node] = []
    windows: list[Window] = []
    while len(node.users) == 1:
        (node,) = node.users
        if (window := split_window(graph, node)) is not None:
            splits.append(node)
            windows.append(window)
        elif conv is None and _keeps_size(layer_of(graph, node)) and _calls(graph, node) == 1:
            conv, before = node, len(splits)
        elif conv is None or not is_pointwise(graph, node):
            # A pointwise layer before the convolution would turn the zeros of the border into something else.
            break
    return _Prefix(splits, windows, conv if splits else None, before)


def _calls(graph: fx.GraphModule, node: fx.Node) -> int:
    """How often the network calls the layer of a node: one that is called again must not be changed."""
    return sum(other.op == "call_module" and other.target == node.target for other in graph.graph.nodes)


def _tail(graph: fx.GraphModule) -> list[fx.Node]:
    """The merges and pointwise layers that end the network, in the order of their execution."""
    tail: list[fx.Node] = []
    node = output_of(graph).all_input_nodes[0]
    while len(node.users) == 1 and (merge_window(graph, node) is not None or is_pointwise(graph, node)):
        tail.insert(0, node)
        node = node.all_input_nodes[0]
    return tail


def _widen(graph: fx.GraphModule, prefix: _Prefix, window: Window) -> Border:
    """Make the prefix read windows: stride its convolution, or sample where there is none. Gives the border."""
    if not prefix.splits:
        return (0, 0, 0, 0)
    if prefix.conv is None:
        source = input_of(graph)
        with graph.graph.inserting_after(source):
            strided = (slice(None), slice(None), slice(None, None, window[0]), slice(None, None, window[1]))
            sampled = graph.graph.call_function(operator.getitem, (source, strided))
        source.replace_all_uses_with(sampled, delete_user_cb=lambda user: user is not sampled)
        return (0, 0, 0, 0)
    conv = layer_of(graph, prefix.conv)
    assert isinstance(conv, nn.Conv2d)
    before = total_window(prefix.windows[: prefix.windows_before_conv])
    top, left, bottom, right = _padding(conv)
    conv.stride = window
    conv.dilation = (conv.dilation[0] * before[0], conv.dilation[1] * before[1])
    conv.padding = (0, 0)
    return (top * before[0], left * before[1], bottom * before[0], right * before[1])


def _keeps_size(layer: nn.Module | None) -> bool:
    """Whether a layer is a zero-padded convolution whose output is as large as its input."""
    return (
        isinstance(layer, nn.Conv2d)
        and layer.stride == (1, 1)
        and layer.padding_mode == "zeros"
        and _padding(layer)[0] + _padding(layer)[2] == layer.dilation[0] * (layer.kernel_size[0] - 1)
        and _padding(layer)[1] + _padding(layer)[3] == layer.dilation[1] * (layer.kernel_size[1] - 1)
    )


def _padding(conv: nn.Conv2d) -> Border:
    """Zeros that a convolution adds: top, left, bottom, right. ``"same"`` gives an odd zero to the end."""
    if conv.padding == "valid":
        return (0, 0, 0, 0)
    if conv.padding == "same":
        rows, columns = (conv.dilation[axis] * (conv.kernel_size[axis] - 1) for axis in (0, 1))
        return (rows // 2, columns // 2, rows - rows // 2, columns - columns // 2)
    assert isinstance(conv.padding, tuple)
    vertical, horizontal = conv.padding
    return (vertical, horizontal, vertical, horizontal)
