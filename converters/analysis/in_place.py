"""Graphs without layers that write into their input.

A graph's edges say what needs what. A layer that works in place breaks that: whoever reads its input later reads what
it wrote, along no edge. So it becomes the layer that gives its result anew, and what reads its input later reads that
result. This holds where the input is a map of its own. Where it is a view, of which other parts are read later, the
layer stays as it is: no rewrite moves it, and the proof compares what comes out.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.pooling import MergePool2d, SplitPool2d

_OPERATORS: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    operator.ifloordiv: operator.floordiv,
    operator.imod: operator.mod,
    operator.ipow: operator.pow,
    operator.imatmul: operator.matmul,
    operator.iand: operator.and_,
    operator.ior: operator.or_,
    operator.ixor: operator.xor,
}
_VIEWS = frozenset(
    {"chunk", "contiguous", "diagonal", "expand", "expand_as", "flatten", "getattr", "getitem", "merge", "movedim"}
    | {"narrow", "permute", "reshape", "reshape_as", "select", "split", "squeeze", "swapaxes", "swapdims", "t"}
    | {"tensor_split", "transpose", "unbind", "unflatten", "unfold", "unsqueeze", "view", "view_as"}
)
"""Functions and methods whose result may be a part of their input."""
_VIEWING = (nn.Flatten, nn.Unflatten, SplitPool2d, MergePool2d)
_KEPT = "smp_deploy.writes_into_a_view"
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def remove_in_place(graph: fx.GraphModule, *, own_layers: bool) -> None:
    """Let every layer that works in place give its result anew, in the graph itself.

    Args:
        graph: as traced.
        own_layers: whether its layers may be changed. Else they keep working in place, and only the edges follow.
    """
    position = {node: index for index, node in enumerate(graph.graph.nodes)}
    for node in list(graph.graph.nodes):
        written = _written_by(graph, node)
        if written is None:
            continue
        # Views that are made later are made of what was written.
        sharing = [held for held in _sharing(graph, written) if position[held] < position[node]]
        later = [(reader, held) for held in sharing for reader in held.users if position[reader] > position[node]]
        same = set(_same(graph, written))
        for reader, held in later:
            if held in same:
                reader.replace_input_with(held, node)
        if same.issuperset(held for _, held in later):
            _give_anew(graph, node, own_layers=own_layers)
        else:
            node.meta[_KEPT] = True
    graph.recompile()


def writes_into_a_view(node: fx.Node) -> bool:
    """Whether a node has to stay at its place, since others read, along no edge, what it writes."""
    return bool(node.meta.get(_KEPT))


def _written_by(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The node whose value a node writes into, or ``None``."""
    if node.op == "call_module":
        writes = getattr(graph.get_submodule(str(node.target)), "inplace", False) is True
    elif node.op == "call_method":
        name = str(node.target)
        writes = name.endswith("_") and not name.endswith("__") and hasattr(torch.Tensor, name)
    elif node.op == "call_function":
        writes = node.target in _OPERATORS or _function_anew(node) is not None or _asked_to(node) is not None
    else:
        writes = False
    first = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    return first if writes and isinstance(first, fx.Node) else None


def _give_anew(graph: fx.GraphModule, node: fx.Node, *, own_layers: bool) -> None:
    if node.op == "call_module":
        if own_layers:
            graph.get_submodule(str(node.target)).inplace = False  # type: ignore[assignment]
    elif node.op == "call_method":
        # Without a form of its own, as zero_, it writes on, and no edge is missing.
        if _anew(torch.Tensor, str(node.target)) is not None:
            node.target = str(node.target)[:-1]
    elif node.target in _OPERATORS:
        node.target = _OPERATORS[node.target]
    elif (anew := _function_anew(node)) is not None:
        node.target = anew
    elif (asked := _asked_to(node)) is not None:
        node.args, node.kwargs = asked


def _anew(holder: Any, name: str) -> Any | None:
    """What gives anew what ``relu_`` writes: ``relu``."""
    if not name.endswith("_") or name.endswith("__"):
        return None
    found = getattr(holder, name[:-1], None)
    return found if callable(found) else None


def _function_anew(node: fx.Node) -> Callable[..., Any] | None:
    name = getattr(node.target, "__name__", "")
    found: Callable[..., Any] | None = _anew(F, name) or _anew(torch, name)
    return found


def _asked_to(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of a function without ``inplace=True``, or ``None`` where they do not have it."""
    try:
        assert callable(node.target)
        bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):
        # A function of C has no signature, and none of these takes inplace.
        return None
    if bound.arguments.get("inplace") is not True:
        return None
    bound.arguments["inplace"] = False
    return bound.args, bound.kwargs


def _same(graph: fx.GraphModule, node: fx.Node) -> Iterator[fx.Node]:
    """The nodes whose value is the very tensor of a node: what layers that do nothing hand on."""
    while _hands_on(graph, node):
        node = node.all_input_nodes[0]
    yield from _below(node, lambda below: _hands_on(graph, below))


def _sharing(graph: fx.GraphModule, node: fx.Node) -> Iterator[fx.Node]:
    """The nodes whose value may share memory with that of a node, itself among them."""
    while _views(graph, node):
        node = node.all_input_nodes[0]
    yield from _below(node, lambda below: _views(graph, below))


def _below(node: fx.Node, follows: Callable[[fx.Node], bool]) -> Iterator[fx.Node]:
    found = [node]
    for held in found:
        yield held
        found += [reader for reader in held.users if reader not in found and follows(reader)]


def _hands_on(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        layer = graph.get_submodule(str(node.target))
        return isinstance(layer, nn.Identity) or (isinstance(layer, _DROPOUTS) and not layer.training)
    return node.op == "call_method" and node.target == "detach"


def _views(graph: fx.GraphModule, node: fx.Node) -> bool:
    if not node.all_input_nodes:
        return False
    if _hands_on(graph, node):
        return True
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), _VIEWING)
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return node.op in ("call_function", "call_method") and name in _VIEWS
