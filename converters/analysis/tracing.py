"""From a network to its ``torch.fx`` graph, with pooling layers and ordinary layers as single nodes."""

from __future__ import annotations

import keyword
import math
import operator
import traceback
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn

from converters.analysis.in_place import remove_in_place, writes_into_a_view
from converters.analysis.placeholders import OURS, TORCH
from converters.analysis.received import check_unwrapped, copied_network, pinned_defaults
from converters.analysis.recording import LayerTracer
from converters.analysis.restoring import left_as_it_is
from converters.pooling import MergePool2d, SplitPool2d, Window, merge, split
from engines.errors import NetworkError
from engines.schedules.phases import Size, padded_size

USUAL_SIZE: Size = (1024, 2048)
"""Of the frames that a network is followed for where none are named; nothing of this size is computed."""
_TRACE = "smp_deploy.trace"


@dataclass(frozen=True)
class TraceRecord:
    """How a graph was traced."""

    size: Size
    """Of the frames, padded to a multiple."""
    multiple: Size
    """What was found that the sides of a frame must be multiples of for every split to come out even, as far as that
    showed at this size; or what the network says."""
    decided: bool
    """Whether the forward pass made decisions or Python numbers of shapes: the graph may be another one for another
    size."""
    doubts: tuple[str, ...]
    """What the forward pass did that the trace does not show, and where: why the two may differ."""


def graph_from_network(network: nn.Module, size: Size = USUAL_SIZE) -> fx.GraphModule:
    """Trace a copy of ``network`` in evaluation mode, with plain weights and without work in place.

    What it decides by shapes it decides as for frames of ``size``, padded to what its splits need.

    Raises :class:`NetworkError`, naming the layer, when the forward pass depends on values, takes several inputs, or
    returns anything but one tensor.
    """
    check_unwrapped(network)
    graph = _evenly_traced(copied_network(network), size)
    remove_in_place(graph, own_layers=True)
    _remove_unused(graph)
    return graph.requires_grad_(False)


def shared_graph(network: nn.Module, size: Size = USUAL_SIZE) -> fx.GraphModule:
    """Trace ``network`` in the mode it is in. The layers of the graph are the network's own, not copies.

    Raises :class:`NetworkError` as :func:`graph_from_network` does.
    """
    check_unwrapped(network)
    graph = _evenly_traced(network, size)
    remove_in_place(graph, own_layers=False)
    _remove_unused(graph)
    return graph


def trace_of(graph: fx.GraphModule) -> TraceRecord:
    """How a graph was traced, or what it was rewritten from."""
    record: TraceRecord = graph.meta[_TRACE]
    return record


def own_multiple(network: nn.Module) -> Size | None:
    """What a network says itself that the sides of an image must be multiples of, its ``size_multiple``, if it does.

    Raises :class:`NetworkError` when that is no pair of positive numbers.
    """
    if not hasattr(network, "size_multiple"):
        return None
    multiple: Any = network.size_multiple
    try:
        rows, columns = (int(side) for side in multiple)
    except (TypeError, ValueError):
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise NetworkError(f"size_multiple is a pair of positive numbers, (rows, columns); received {multiple!r}")
    return rows, columns


def _evenly_traced(network: nn.Module, size: Size) -> fx.GraphModule:
    """Trace for frames of a size, padded to what the network says, or until every split comes out even."""
    own = own_multiple(network)
    multiple = (1, 1) if own is None else own
    while True:
        tracer = LayerTracer(network, padded_size(size, multiple))
        try:
            traced: fx.GraphModule | NetworkError = _traced(network, tracer)
        except NetworkError as error:
            traced = error
        wanted = _together(multiple, tracer.values.uneven)
        if own is not None or wanted == multiple:
            break
        multiple = wanted
    if isinstance(traced, NetworkError):
        raise traced
    doubts = tuple(f"{what} ({where})" for what, where in tracer.doubts.items())
    traced.meta[_TRACE] = TraceRecord(padded_size(size, multiple), multiple, tracer.decided, doubts)
    return traced


def _together(multiple: Size, others: list[Size]) -> Size:
    rows, columns = zip(multiple, *others, strict=True)
    return math.lcm(*rows), math.lcm(*columns)


def _traced(network: nn.Module, tracer: LayerTracer) -> fx.GraphModule:
    name = type(network).__name__
    with left_as_it_is(network):
        try:
            with pinned_defaults():
                graph = tracer.traced(network)
        except Exception as error:
            # The network is the user's code and may raise anything on a placeholder.
            raise NetworkError(f"{name} cannot be traced: {error}{_place(error, tracer)}") from error
        _check_names(network, graph)
        traced = fx.GraphModule(network, graph, class_name=name)
    for tensor, constant in tracer.tensor_attrs.items():
        if isinstance(tensor, torch.Tensor) and not _has(network, constant):
            # Where the layers of a graph are the network's own, so are the tensors that it has made.
            setattr(network, constant, tensor)
    _check_ends(traced, name)
    return traced


def _check_ends(traced: fx.GraphModule, name: str) -> None:
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1:
        names = ", ".join(node.name for node in inputs)
        raise NetworkError(f"{name} takes {len(inputs)} inputs ({names}); it must take one image")
    result = output_of(traced).args[0]
    if isinstance(result, dict):
        keys = ", ".join(repr(key) for key in result)
        raise NetworkError(f"{name} must return one tensor, not a dict of {keys}: wrap it and return the logits alone")
    if not isinstance(result, fx.Node):
        raise NetworkError(f"{name} must return one tensor, not a collection: wrap it and return the logits alone")


def _remove_unused(graph: fx.GraphModule) -> None:
    """Remove functions and methods that nobody reads, as the conditions of assertions are."""
    for node in reversed(list(graph.graph.nodes)):
        if node.op in ("call_function", "call_method") and not node.users and not writes_into_a_view(node):
            graph.graph.erase_node(node)
    graph.recompile()


def _place(error: BaseException, tracer: LayerTracer) -> str:
    """Where an error was raised, `` (in layer body.2; line 12 of net.py, in forward)``; empty where that is unknown."""
    places = []
    if tracer.failed is not None and tracer.failed[0] is error and tracer.failed[1]:
        places.append(f"in layer {tracer.failed[1]}")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((TORCH, OURS)):
            places.append(f"line {frame.lineno} of {Path(frame.filename).name}, in {frame.name}")
            break
    return f" ({'; '.join(places)})" if places else ""


def _has(network: nn.Module, path: str) -> bool:
    try:
        operator.attrgetter(path)(network)
    except AttributeError:
        return False
    return True


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
