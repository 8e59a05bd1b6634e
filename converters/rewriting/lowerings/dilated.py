"""Splits as dilation: the full grid stays, and convolutions after a split read it in larger steps.

Elements that are neighbours in a split batch of total window ``(h, w)`` lie ``h`` rows and ``w`` columns apart in
the full grid. So convolving all split batches with dilation ``d`` and ``p`` zeros of padding is convolving the full
grid with dilation ``d*h`` and ``p*h`` zeros, which are what each split batch sees beyond its border. Splits and
merges vanish. What looks at one position at a time is the same in both grids; anything else is refused.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Set

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.convolutions import is_stepwise, padding_of
from converters.analysis.levels import total_window
from converters.analysis.modules import add_copy
from converters.analysis.network import copied_graph
from converters.analysis.pointwise import is_pointwise
from converters.analysis.tracing import calls, erase, finish, layer_of, name_of
from converters.pooling import Window
from converters.rewriting.loops import LoopedNetwork
from converters.rewriting.lowerings.base import LoweredNetwork
from engines.errors import NetworkError
from engines.schedules.schedule import Lowering

_ELEMENTWISE = frozenset(
    {operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv, operator.neg}
    | {torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum}
)
_ELEMENTWISE_METHODS = frozenset({"add", "add_", "sub", "mul", "mul_", "div", "clamp", "contiguous"})


def dilated(network: LoopedNetwork) -> LoweredNetwork:
    """Every split and merge inside vanishes, convolutions between them are dilated by the window."""
    graph, nodes = copied_graph(network.graph)
    inside = network.inside.moved(nodes)
    pools = {**inside.splits, **inside.merges}
    for node, stack in inside.stacks.items():
        if stack and node not in pools and node.op != "output":
            _dilate(graph, node, total_window(stack), inside.stacks.keys())
    for node in pools:
        erase(node)
    finish(graph)
    return LoweredNetwork(network, Lowering.DILATED, graph, ())


def _dilate(graph: fx.GraphModule, node: fx.Node, window: Window, maps: Set[fx.Node]) -> None:
    layer = layer_of(graph, node)
    if is_pointwise(graph, node) or (_is_elementwise(node) and maps >= set(node.all_input_nodes)):
        return
    if not is_stepwise(layer):
        raise NetworkError(
            f"{name_of(node)} cannot be dilated: between a split and its merge the dilated lowering understands "
            "convolutions of stride 1 padded with zeros, pointwise layers, sums, products and concatenations of "
            "channels; choose another lowering"
        )
    assert isinstance(layer, nn.Conv2d)
    top, left, bottom, right = padding_of(layer)
    rows, columns = window
    # A copy of its own: the layer may be called at another level too.
    wide = copy.deepcopy(layer)
    wide.dilation = (layer.dilation[0] * rows, layer.dilation[1] * columns)
    wide.padding = (top * rows, left * columns)
    if (top, left) != (bottom, right):
        wide.padding = (0, 0)
        zeros = (left * columns, right * columns, top * rows, bottom * rows)
        with graph.graph.inserting_before(node):
            node.args = (graph.graph.call_function(F.pad, (node.args[0], zeros)), *node.args[1:])
    path = str(node.target)
    if calls(graph, node) > 1:
        node.target = add_copy(graph, path, f"dilated_{rows}x{columns}", wide)
    else:
        graph.set_submodule(path, wide)


def _is_elementwise(node: fx.Node) -> bool:
    """Whether a node combines what it is given position by position.

    It may be given feature maps and numbers alone: what is stored, or made of a size, is of the split batches' size.
    """
    if node.op == "call_function" and node.target in (torch.cat, torch.concat):
        axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
        return axis in (1, -3)
    if node.op == "call_function":
        return node.target in _ELEMENTWISE
    return node.op == "call_method" and node.target in _ELEMENTWISE_METHODS
