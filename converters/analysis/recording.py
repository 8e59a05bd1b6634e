"""A ``torch.fx`` tracer that knows the frame's size, so that what a forward pass does with shapes is followed.

Shapes are recorded as what they are computed from, so that a graph holds for any number of images, and for other sizes
where nothing was decided by them. Where Python itself needs a number or a decision, it gets that of this size
(:mod:`converters.analysis.values`).
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import TorchFunctionMode

from converters.analysis.convolutions import has_hooks
from converters.analysis.placeholders import READING, SHAPED, Asked, NotFollowed, Placeholder, has_placeholder
from converters.analysis.values import Unknown, Values
from converters.pooling import MergePool2d, SplitPool2d, merge, split
from engines.schedules.phases import Size

_RESHAPING = {"view": "reshape", "view_as": "reshape_as"}
_FACTORIES = (torch.empty, torch.ones, torch.rand, torch.randn, torch.zeros)
"""Functions that take a size as several numbers: PyTorch itself records none whose first one is a placeholder."""
_FITS_ANY_LEVEL = "smp_deploy.fits_any_level"


def fits_any_level(node: fx.Node) -> bool:
    """Whether a node gives a size, a type or a device, and no map: it is the same for any number of images."""
    return bool(node.meta.get(_FITS_ANY_LEVEL))


class LayerTracer(fx.Tracer):
    """Keeps pooling layers whole, and says where a forward pass cannot be followed."""

    proxy_buffer_attributes = True

    def __init__(self, network: nn.Module, size: Size) -> None:
        super().__init__(autowrap_functions=_FACTORIES)
        # Everywhere, and not in the network's own file alone.
        self._autowrap_search.append(torch)
        self.values = Values(network, size)
        self.doubts: dict[str, str] = {}
        """What a trace does not record, and where it was met first."""
        self.decided = False
        """Whether anything was decided by a number, so that the graph may be another one for another size."""
        self.failed: tuple[BaseException, str] | None = None
        """What was raised last inside a layer, and the innermost such layer."""
        self._asked: list[Asked] = []
        self._following = False

    @property
    def is_following(self) -> bool:
        """Whether layers compute at present."""
        return self._following

    @contextmanager
    def following(self) -> Iterator[None]:
        """Let layers compute instead of being recorded, inside the ``with`` block."""
        before, self._following = self._following, True
        try:
            yield
        finally:
            self._following = before

    def traced(self, network: nn.Module) -> fx.Graph:
        """The graph of a network. Raises :class:`NotFollowed`, and what the network raises."""
        with _Recorded(self):
            graph = self.trace(network)
        for node in graph.nodes:
            if node.target in _FACTORIES:
                # Written into a graph's code, this would ask every later trace to wrap a name "torch.zeros".
                node.meta.pop("is_wrapped", None)
        if self._asked:
            asked = self._asked[0]
            raise NotFollowed(
                "it makes a Python number of how many images there are (int, len, range): split batches are entries of "
                f"the batch, and a trunk computes any number of them; give x.shape[0] itself, or -1{asked.place}"
            )
        return graph

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Pooling layers stay whole, as PyTorch's own layers do; of a hooked one, what its hooks do is recorded."""
        if m is self.root:
            return False
        if isinstance(m, (SplitPool2d, MergePool2d)):
            return not has_hooks(m)
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Record a layer, or follow what is inside it."""
        if self._following:
            return forward(*args, **kwargs)
        try:
            if isinstance(m, (SplitPool2d, MergePool2d)) and has_hooks(m):
                with _forward_of(m, _functional(m)):
                    return super().call_module(m, forward, args, kwargs)
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:
            if self.failed is None or self.failed[0] is not error:
                self.failed = (error, self.path_of_module(m))
            raise

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """The placeholders; where the network has hooks of its own, they run around its forward."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        return (_called if has_hooks(self.root) else function), args

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """A parameter or buffer is recorded where it is read, unless a layer computes with it."""
        return attr_val if self._following else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> fx.Node:
        """Record a step, its arguments by their places, and work out what it gives."""
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            self.doubt("it computes under torch.autocast, which no trace records")
        if kind in ("call_module", "call_function") and kwargs and not args:
            args, kwargs = self._by_place(kind, target, kwargs)
        if kind == "call_method" and target in _RESHAPING and not _has_dtype((args, kwargs)):
            # Where a view is possible it is one. In a rewritten network a map may lie otherwise in memory.
            target = _RESHAPING[target]
        node = super().create_node(kind, target, args, kwargs, *rest, **named)
        with self.following():
            value = self.values.take(node)
        self._check_readable(node)
        if isinstance(value.two, Unknown) and not isinstance(value.one, Unknown):
            raise NotFollowed(
                f"{node.name} takes one image and fails on two: {value.two.error}. Split batches are entries of the "
                "batch, and any number of them is computed at a time; expand what is stored to x.shape[0]"
            )
        if kind != "output" and value.is_known and not value.is_tensor and not value.of_batch:
            node.meta[_FITS_ANY_LEVEL] = True
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        """Record a step, and stand for what it gives.

        A condition on shapes is decided at once. So is a number that is made of how many images there are, and is the
        same for any: a trunk of some phases has fewer images at one level, and as many at another.
        """
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        value = self.values.of(proxy.node)
        given = map(self.values.of, proxy.node.all_input_nodes)
        counted = any(held.is_number and held.of_batch for held in given) and not value.of_batch
        if isinstance(value.one, bool) or (value.is_number and counted):
            self.decided = True
            return value.one
        return proxy

    def _by_place(self, kind: str, target: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Arguments that were given by name alone, by their places: rewrites read the first one."""
        if kind == "call_module":
            layer = self.root.get_submodule(target)
            if layer._forward_pre_hooks_with_kwargs or layer._forward_hooks_with_kwargs:
                return (), kwargs
            target = layer.forward
        try:
            bound = inspect.signature(target).bind(**kwargs)
        except (TypeError, ValueError):
            # A function of C has no signature, and calls its first argument so.
            first = next((name for name in ("input", "tensors", "self") if name in kwargs), None)
            if first is None:
                return (), kwargs
            return (kwargs[first],), {name: value for name, value in kwargs.items() if name != first}
        return bound.args, bound.kwargs

    def _check_readable(self, node: fx.Node) -> None:
        """Raise :class:`NotFollowed` for a number that the values of a map decide."""
        reads = node.op == "call_method" and str(node.target) in READING
        if reads:
            raise NotFollowed(f"it takes the values of a tensor out of it ({node.target}), and a trace has none")
        asked = node.args[1] if node.target is getattr and len(node.args) > 1 else node.target
        if asked in SHAPED and isinstance(node.args[0], fx.Node):
            self.check_shape(node.args[0])

    def check_shape(self, node: fx.Node) -> None:
        """Raise :class:`NotFollowed` where the values of a tensor decide the shape of what a node gives."""
        value = self.values.of(node).one
        if isinstance(value, Unknown) and value.of_values:
            raise NotFollowed(
                f"the shape of {node.name} depends on the values of a tensor; a network must be free of such control "
                "flow"
            )

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a value while the forward pass runs."""
        return Placeholder(node, self)

    def doubt(self, what: str) -> None:
        """Note what a trace does not record."""
        self.doubts.setdefault(what, f"in {self.scope.module_path}" if self.scope.module_path else "in its forward")

    def ask(self, asked: Asked) -> None:
        """Note that Python was given how many images there are."""
        self._asked.append(asked)

    def asked_by_torch(self, frame: FrameType | None) -> None:
        """Forget what was asked for by the very call that is being recorded: it has the placeholder itself."""
        self._asked = [asked for asked in self._asked if not asked.is_of(frame)]


class _Recorded(TorchFunctionMode):
    """Records functions of PyTorch that are given placeholders for sizes alone, ``torch.arange(x.shape[3])``."""

    def __init__(self, tracer: LayerTracer) -> None:
        super().__init__()
        self._tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._tracer.is_following or not has_placeholder((args, kwargs)):
            return func(*args, **kwargs)
        self._tracer.asked_by_torch(inspect.currentframe().f_back)  # type: ignore[union-attr]
        name = func.__name__
        if not torch.overrides.is_tensor_method_or_property(func):
            return self._tracer.create_proxy("call_function", func, args, kwargs)
        if name.startswith("__") and hasattr(operator, name):
            return self._tracer.create_proxy("call_function", getattr(operator, name), args, kwargs)
        return self._tracer.create_proxy("call_method", name, args, kwargs)


def _called(network: nn.Module, *inputs: Any) -> Any:
    return network(*inputs)


def _functional(pool: SplitPool2d | MergePool2d) -> Callable[[Any], Any]:
    function = split if isinstance(pool, SplitPool2d) else merge
    return lambda x: function(x, pool.window)


@contextmanager
def _forward_of(layer: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


def _has_dtype(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_dtype, value.values()))
    return any(map(_has_dtype, value)) if isinstance(value, tuple) else isinstance(value, torch.dtype)
