"""What the nodes of a trace give, without computing it: shapes, types, and numbers made of shapes.

A frame's size is fixed when a network is traced, so every shape is known. The number of images is not: a trunk computes
any number of phases at a time, and a split makes more entries of the batch. So everything is followed twice, for one
image and for two, and a number that differs is the batch's.

Maps have no values here (``torch``'s fake tensors). Numbers and shapes have, and what is made of stored tensors alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from converters.pooling import MergePool2d, SplitPool2d, merge, split
from engines.schedules.phases import Size

_MOST_HELD = 2**16
"""Elements of a tensor whose values are looked at; a larger one is followed by its shape alone."""


@dataclass(frozen=True)
class Unknown:
    """What could not be followed, and why."""

    error: Exception

    @property
    def of_values(self) -> bool:
        """Whether the values of a map decide what it is, as the shape of ``x.nonzero()``."""
        return isinstance(self.error, (DataDependentOutputException, DynamicOutputShapeException))


@dataclass(frozen=True)
class Value:
    """What a node gives for one image and for two."""

    one: Any
    two: Any

    @property
    def of_batch(self) -> bool:
        """Whether it is a number, or has one, that differs with the number of images."""
        return not self.is_tensor and not isinstance(self.one, Unknown) and not _same(self.one, self.two)

    @property
    def is_tensor(self) -> bool:
        """Whether it is a tensor, or a collection with one, so that its place in a network's levels counts."""
        return _has_tensor(self.one)

    @property
    def is_number(self) -> bool:
        """Whether it is a number of Python."""
        return isinstance(self.one, (int, float))

    @property
    def is_known(self) -> bool:
        """Whether it has a value that a forward pass may ask for."""
        return not isinstance(self.one, (Unknown, FakeTensor))


class Values:
    """Works out what nodes give, for frames of one size."""

    def __init__(self, network: nn.Module, size: Size) -> None:
        self._network = network
        self._size = size
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._known: dict[fx.Node, Value] = {}
        self.uneven: list[Size] = []
        """What the sides of a frame must be multiples of, of each split that does not come out even."""

    def of(self, node: fx.Node) -> Value:
        """What a node that has been taken gives."""
        return self._known[node]

    def take(self, node: fx.Node) -> Value:
        """Work out what a node gives. Nothing is raised: what cannot be followed is :class:`Unknown`."""
        one = self._evaluated(node, 0)
        alike = all(held.one is held.two for held in map(self.of, node.all_input_nodes)) and node.op != "placeholder"
        known = self._known[node] = Value(one, one if alike else self._evaluated(node, 1))
        return known

    def _evaluated(self, node: fx.Node, which: int) -> Any:
        given = [(known.one, known.two)[which] for known in (self._known[held] for held in node.all_input_nodes)]
        if (failed := next((value for value in given if isinstance(value, Unknown)), None)) is not None:
            return failed
        arguments = dict(zip(node.all_input_nodes, given, strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), arguments.__getitem__)
        try:
            with torch.no_grad():
                if node.op == "placeholder":
                    return self._image(1 + which)
                if node.op == "get_attr":
                    return self._stored(node)
                if _is_of_values(given):
                    return self._held(self._called(node, args, kwargs))
                with self._mode:
                    return self._called(node, args, kwargs)
        except Exception as error:  # noqa: BLE001 - the layers are the user's and may raise anything
            return Unknown(error)

    def _image(self, images: int) -> Tensor:
        floats = (held for held in self._network.parameters() if held.is_floating_point())
        like = next(floats, torch.empty(0))
        with self._mode:
            return torch.empty(images, 3, *self._size, dtype=like.dtype, device=like.device)

    def _stored(self, node: fx.Node) -> Any:
        value: Any = self._network
        for part in str(node.target).split("."):
            value = getattr(value, part)
        # A parameter changes in training, and only its shape is looked at.
        return self._mode.from_tensor(value.detach()) if isinstance(value, nn.Parameter) else self._held(value)

    def _held(self, value: Any) -> Any:
        large = isinstance(value, Tensor) and not isinstance(value, FakeTensor) and value.numel() > _MOST_HELD
        return self._mode.from_tensor(value) if large else value

    def _called(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target: Any = node.target
        if node.op == "output":
            return None
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if node.op == "call_function":
            return self._pooled(target, args[0], args[1]) if target in (split, merge) else target(*args, **kwargs)
        layer = self._network.get_submodule(target)
        if isinstance(layer, SplitPool2d):
            # Whatever the mode: where it shrinks, a map is as large, and a batch smaller.
            return self._pooled(split, args[0], layer.window)
        if isinstance(layer, MergePool2d):
            return self._pooled(merge, args[0], layer.window)
        with _evaluating(layer):
            return layer(*args, **kwargs)

    def _pooled(self, pool: Callable[[Tensor, Size], Tensor], x: Tensor, window: Size) -> Tensor:
        if pool is split and x.ndim == 4 and any(side % part for side, part in zip(x.shape[2:], window, strict=True)):
            # About so many times as large is the frame as this map.
            times = [max(round(whole / side), 1) for whole, side in zip(self._size, x.shape[2:], strict=True)]
            self.uneven.append((times[0] * window[0], times[1] * window[1]))
        return pool(x, window)


@contextmanager
def _evaluating(layer: nn.Module) -> Iterator[None]:
    """A layer in evaluation mode: in training mode it would count what it sees here."""
    before = {module: module.training for module in layer.modules()}
    layer.eval()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


def _is_of_values(given: list[Any]) -> bool:
    """Whether something is made of stored tensors whose values are held, and of numbers."""
    tensors = [value for value in given if isinstance(value, Tensor)]
    return bool(tensors) and not any(isinstance(value, FakeTensor) for value in tensors)


def _has_tensor(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_has_tensor, value))
    return isinstance(value, Tensor)


def _same(one: Any, two: Any) -> bool:
    try:
        return bool(one == two)
    except Exception:  # noqa: BLE001 - values are the user's and may raise anything
        return False
