"""From a network to its ``torch.fx`` graph, with pooling layers and ordinary layers as single nodes."""

from __future__ import annotations

import dis
import inspect
import keyword
import operator
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import fx, nn

from converters.analysis.in_place import remove_in_place, writes_into_a_view
from converters.analysis.received import check_unwrapped, copied_network, pinned_defaults
from converters.pooling import MergePool2d, SplitPool2d, Window, merge, split
from engines.errors import NetworkError

_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parents[1])
_DOUBTS = "smp_deploy.doubts"
_READING = ("item", "tolist", "numpy")
"""Methods that make numbers of a tensor's values."""


class _LayerTracer(fx.Tracer):
    """Keeps pooling layers whole, leaves assertions out, and says where a forward pass cannot be followed."""

    def __init__(self) -> None:
        super().__init__()
        self.doubts: dict[str, str] = {}
        """What a trace does not record, and where it was met first."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Pooling layers stay whole, as PyTorch's own layers do."""
        return isinstance(m, (SplitPool2d, MergePool2d)) or super().is_leaf_module(m, module_qualified_name)

    def create_node(self, *arguments: Any, **named: Any) -> fx.Node:
        """Note layers that compute under autocast: the trace has the layer alone."""
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            self.doubt("it computes under torch.autocast, which no trace records")
        return super().create_node(*arguments, **named)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a tensor while the forward pass runs."""
        return _Placeholder(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Of a condition: what is asserted holds, and any other is refused by what it looks at."""
        asking = inspect.currentframe().f_back.f_back  # type: ignore[union-attr]
        if asking is not None and _is_asserting(asking):
            return True
        if _is_of_shapes(obj.node):
            raise _NotFollowed("it decides by the shape or type of a tensor, which a trace does not know")
        raise _NotFollowed("it decides by the values of a tensor; a network must be free of such control flow")

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """Of a loop or a star: only a known number of parts can be unpacked."""
        try:
            unpacked: Iterator[Any] = super().iter(obj)
        except fx.proxy.TraceError as error:
            raise _NotFollowed(
                "it iterates over a tensor, or over its shape; a trace knows no number of parts"
            ) from error
        return unpacked

    def doubt(self, what: str) -> None:
        """Note what a trace does not record."""
        self.doubts.setdefault(what, f"in {self.scope.module_path}" if self.scope.module_path else "in its forward")


class _Placeholder(fx.Proxy):
    """What stands for a tensor. It is none: code that asks gets no for an answer, and that is noted."""

    tracer: _LayerTracer

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Asked by ``isinstance`` for any type but that of placeholders."""
        caller = inspect.currentframe().f_back  # type: ignore[union-attr]
        if caller is not None and (caller.f_code is torch.is_tensor.__code__ or not _is_of_torch(caller)):
            self.tracer.doubt("it asks with isinstance or torch.is_tensor what a tensor is, and a trace has none")
        return type(self)

    def __len__(self) -> int:
        raise _NotFollowed("it takes the len of a tensor or of its shape, which a trace does not know")

    def __float__(self) -> float:
        raise _NotFollowed("it makes a Python number of a tensor or of its shape, which a trace does not know")

    def __int__(self) -> int:
        raise _NotFollowed("it makes a Python number of a tensor or of its shape, which a trace does not know")

    def __setitem__(self, _: Any, __: Any) -> None:
        raise _NotFollowed("it writes into a part of a tensor, x[...] = ...: use torch.cat or torch.where")


def _writing(name: str) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    """``x += y`` writes into a tensor, and gives a new number where a shape is counted with."""

    def write(proxy: fx.Proxy, other: Any) -> fx.Proxy:
        operation = getattr(operator, name if _is_of_shapes(proxy.node) else f"i{name}")
        written: fx.Proxy = proxy.tracer.create_proxy("call_function", operation, (proxy, other), {})
        return written

    return write


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(_Placeholder, f"__i{_name}__", _writing(_name))


class _NotFollowed(Exception):
    """Why a trace ends."""


def graph_from_network(network: nn.Module) -> fx.GraphModule:
    """Trace a copy of ``network`` in evaluation mode, with plain weights and without work in place.

    Raises :class:`NetworkError` when the forward pass depends on values, takes several inputs, or returns
    anything but one tensor.
    """
    check_unwrapped(network)
    graph = _traced(copied_network(network))
    remove_in_place(graph, own_layers=True)
    _remove_unused(graph)
    return graph.requires_grad_(False)


def shared_graph(network: nn.Module) -> fx.GraphModule:
    """Trace ``network`` in the mode it is in. The layers of the graph are the network's own, not copies.

    Raises :class:`NetworkError` as :func:`graph_from_network` does.
    """
    check_unwrapped(network)
    graph = _traced(network)
    remove_in_place(graph, own_layers=False)
    _remove_unused(graph)
    return graph


def doubts_of(graph: fx.GraphModule) -> list[str]:
    """What the forward pass did that its trace does not show, and where: why the two may differ."""
    return list(graph.meta.get(_DOUBTS, ()))


def _traced(network: nn.Module) -> fx.GraphModule:
    name, tracer = type(network).__name__, _LayerTracer()
    try:
        with pinned_defaults():
            graph = tracer.trace(network)
    except Exception as error:
        # The network is the user's code and may raise anything on a placeholder.
        raise NetworkError(f"{name} cannot be traced: {error}{_place(error)}") from error
    _check_names(network, graph)
    traced = fx.GraphModule(network, graph, class_name=name)
    _check_ends(traced, name)
    for node in graph.nodes:
        if node.op == "call_method" and node.target in _READING:
            raise NetworkError(
                f"{name} cannot be traced: it takes the values of a tensor out of it ({node.target}), and a trace has "
                "none"
            )
    if network._forward_pre_hooks or network._forward_hooks:
        tracer.doubts["it has hooks of its own, which are no part of its forward"] = f"on {name}"
    traced.meta[_DOUBTS] = [f"{what} ({where})" for what, where in tracer.doubts.items()]
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


def _is_asserting(frame: FrameType) -> bool:
    """Whether the condition that a frame has come to is that of an ``assert``.

    What a network asserts holds for it, and is checked where it runs; a rewritten one is of other shapes.
    """
    found = list(dis.get_instructions(frame.f_code))
    rest = [held for held in found if held.offset >= frame.f_lasti and held.opname not in ("TO_BOOL", "NOT_TAKEN")]
    if len(rest) < 2 or "JUMP" not in rest[0].opname:
        return False
    # Where the condition is false: behind a jump that is taken if it is true, else where the jump leads.
    behind = rest[1] if "IF_TRUE" in rest[0].opname else next(at for at in found if at.offset == rest[0].argval)
    return behind.opname == "LOAD_ASSERTION_ERROR" or "AssertionError" in behind.argrepr


def _is_of_shapes(node: fx.Node) -> bool:
    """Whether a value is computed from shapes and types of tensors alone."""
    if node.op == "call_function" and node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device", "is_cuda", "requires_grad")
    if node.op == "call_method" and node.target in ("size", "dim", "numel", "is_contiguous", "is_floating_point"):
        return True
    before = node.all_input_nodes
    return bool(before) and all(_is_of_shapes(held) for held in before)


def _is_of_torch(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(_TORCH)


def _place(error: BaseException) -> str:
    """Where in the user's own code an error was raised, `` (line 12 of net.py, in forward)``; empty if nowhere."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((_TORCH, _OURS)):
            return f" (line {frame.lineno} of {Path(frame.filename).name}, in {frame.name})"
    return ""


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
