"""From a network to its ``torch.fx`` graph, with pooling layers and ordinary layers as single nodes."""

from __future__ import annotations

import copy
import keyword
import unicodedata
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from converters.pooling import MergePool2d, SplitPool2d, Window, merge, split
from engines.errors import NetworkError


class _LayerTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Pooling layers stay whole, as PyTorch's own layers do."""
        return isinstance(m, (SplitPool2d, MergePool2d)) or super().is_leaf_module(m, module_qualified_name)


def graph_from_network(network: nn.Module) -> fx.GraphModule:
    """Trace a copy of ``network`` in evaluation mode.

    Raises :class:`NetworkError` when the forward pass depends on values, takes several inputs, or returns
    anything but one tensor.
    """
    try:
        network = copy.deepcopy(network).eval()
    except Exception as error:
        raise _untraceable(network, error) from error
    return shared_graph(network).requires_grad_(False)


def shared_graph(network: nn.Module) -> fx.GraphModule:
    """Trace ``network`` in the mode it is in. The layers of the graph are the network's own, not copies.

    Raises :class:`NetworkError` as :func:`graph_from_network` does.
    """
    try:
        graph = _LayerTracer().trace(network)
    except Exception as error:
        raise _untraceable(network, error) from error
    _check_names(network, graph)
    traced = fx.GraphModule(network, graph, class_name=type(network).__name__)
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        names = ", ".join(node.name for node in inputs)
        raise NetworkError(f"{type(network).__name__} takes {len(inputs)} inputs ({names}); it must take one image")
    if not isinstance(output_of(traced).args[0], fx.Node):
        raise NetworkError(f"{type(network).__name__} must return one tensor, not a collection")
    return traced


def _untraceable(network: nn.Module, error: Exception) -> NetworkError:
    """The network is the user's code and may raise anything, on a copy or on a symbolic input."""
    return NetworkError(
        f"{type(network).__name__} cannot be traced: {error}. A network must be free of control flow "
        "that depends on tensor values"
    )


def _check_names(network: nn.Module, graph: fx.Graph) -> None:
    """Raise :class:`NetworkError` for a module or parameter that the code of a graph cannot name.

    torch.fx writes a name as ``self.name``, or as ``getattr(self, "name")`` where it is no identifier, and escapes
    nothing.
    """
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr") and not all(map(_can_be_written, str(node.target).split("."))):
            raise NetworkError(
                f"{type(network).__name__} has a module or parameter {str(node.target)!r}, which torch.fx cannot write "
                "as Python; name it with letters, digits and underscores, and by no keyword"
            )


def _can_be_written(name: str) -> bool:
    if name.isidentifier():
        # Python reads identifiers in this normal form.
        return not keyword.iskeyword(name) and unicodedata.normalize("NFKC", name) == name
    return name.isprintable() and not {'"', "\\"} & set(name)


def output_of(graph: fx.GraphModule) -> fx.Node:
    """The output node."""
    node: fx.Node = next(node for node in reversed(graph.graph.nodes) if node.op == "output")
    return node


def input_of(graph: fx.GraphModule) -> fx.Node:
    """The one placeholder."""
    node: fx.Node = next(node for node in graph.graph.nodes if node.op == "placeholder")
    return node


def layer_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, or ``None`` for functions and methods."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def name_of(node: fx.Node) -> str:
    """A node as its user knows it: the path of its module, or the name of its function."""
    return f"{node.target!s} ({node.name})" if node.op == "call_module" else node.name


def calls(graph: fx.GraphModule, node: fx.Node) -> int:
    """How often the network calls the layer of a node: one that is called again must not be changed in place."""
    return sum(other.op == "call_module" and other.target == node.target for other in graph.graph.nodes)


def split_window(graph: fx.GraphModule, node: fx.Node) -> Window | None:
    """The window of a node that splits, or ``None``."""
    return _pool_window(graph, node, SplitPool2d, split)


def merge_window(graph: fx.GraphModule, node: fx.Node) -> Window | None:
    """The window of a node that merges, or ``None``."""
    return _pool_window(graph, node, MergePool2d, merge)


def _pool_window(
    graph: fx.GraphModule,
    node: fx.Node,
    kind: type[SplitPool2d] | type[MergePool2d],
    function: Callable[[torch.Tensor, Window], torch.Tensor],
) -> Window | None:
    layer: Any = layer_of(graph, node)
    if isinstance(layer, kind):
        return layer.window
    if node.op == "call_function" and node.target is function:
        h, w = node.args[1] if len(node.args) > 1 else node.kwargs["window"]  # type: ignore[misc]
        return int(h), int(w)  # type: ignore[arg-type]
    return None


def erase(node: fx.Node) -> None:
    """Remove a node and let its input take its place."""
    node.replace_all_uses_with(node.all_input_nodes[0])
    node.graph.erase_node(node)


def finish(graph: fx.GraphModule) -> None:
    """After nodes have been changed: drop layers that nothing calls, check the graph, and write its code anew."""
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
