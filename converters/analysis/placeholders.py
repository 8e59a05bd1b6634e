"""What stands for a tensor, a shape or a number while a forward pass is traced, and answers what is known of it."""

from __future__ import annotations

import dis
import inspect
import math
import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from converters.analysis.values import Unknown, Value

if TYPE_CHECKING:
    from converters.analysis.recording import LayerTracer

TORCH = str(Path(torch.__file__).parent)
OURS = str(Path(__file__).parents[1])
_FX = str(Path(torch.__file__).parent / "fx")
READING = ("item", "tolist", "numpy")
"""Methods that make numbers of a tensor's values."""
SHAPED = ("shape", "size", "numel", "nelement", "__len__")
"""What asks for a tensor's shape."""


class NotFollowed(Exception):
    """Why a trace ends."""


class Asked:
    """A place where Python took a number."""

    def __init__(self, frame: FrameType | None, layer: str) -> None:
        self._frame = frame
        self._instruction = frame.f_lasti if frame is not None else -1
        while frame is not None and frame.f_code.co_filename.startswith((TORCH, OURS)):
            frame = frame.f_back
        places = [f"in layer {layer}"] if layer else []
        if frame is not None:
            places.append(f"line {frame.f_lineno} of {Path(frame.f_code.co_filename).name}, in {frame.f_code.co_name}")
        self.place = f" ({'; '.join(places)})"

    def is_of(self, frame: FrameType | None) -> bool:
        """Whether a frame is still at the very instruction that took it."""
        return frame is self._frame and frame is not None and frame.f_lasti == self._instruction


class Placeholder(fx.Proxy):
    """What stands for a tensor, a shape or a number, and answers what is known of it."""

    tracer: LayerTracer

    @property
    def _value(self) -> Value:
        return self.tracer.values.of(self.node)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Asked by ``isinstance`` for any type but that of placeholders."""
        caller = inspect.currentframe().f_back  # type: ignore[union-attr]
        if caller is None or caller.f_code.co_filename.startswith(_FX):
            return type(self)
        one = self._value.one
        if isinstance(one, Unknown):
            self.tracer.doubt("it asks with isinstance or torch.is_tensor what a tensor is, and a trace has none")
            return type(self)
        return Tensor if isinstance(one, Tensor) else type(one)

    def __getattr__(self, k: str) -> Any:
        if k in ("tracer", "node"):
            raise AttributeError(k)
        one = self._value.one
        if isinstance(one, Unknown):
            if k in SHAPED:
                self.tracer.check_shape(self.node)
            return super().__getattr__(k)
        with self.tracer.following():
            found = getattr(one, k)
        if k in READING and self._value.is_known:
            # What is made of stored tensors alone has values.
            return found
        return super().__getattr__(k) if callable(found) else self._does(getattr, k)

    def _does(self, function: Callable[..., Any], *others: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, *others), {})

    def _number(self, what: str, make: Callable[[Any], Any]) -> Any:
        """What Python asks for, made of what is known for this size."""
        value = self._value
        if isinstance(value.one, Unknown) or not value.is_known:
            raise NotFollowed(f"it makes a Python number of the values of a tensor ({what}), and a trace has none")
        self.tracer.decided = True
        if value.of_batch:
            asking = inspect.currentframe().f_back.f_back  # type: ignore[union-attr]
            self.tracer.ask(Asked(asking, self.tracer.scope.module_path))
        with self.tracer.following():
            return make(value.one)

    def __bool__(self) -> bool:
        value = self._value
        if not value.is_known:
            asking = inspect.currentframe().f_back  # type: ignore[union-attr]
            if asking is not None and _is_asserting(asking):
                return True
            raise NotFollowed(
                "it decides by the values of a tensor; a network must be free of such control flow"
                + (f" ({value.one.error})" if isinstance(value.one, Unknown) and not value.one.of_values else "")
            )
        self.tracer.decided = True
        with self.tracer.following():
            return bool(value.one)

    def __int__(self) -> int:
        return int(self._number("int", int))

    def __index__(self) -> int:
        return int(self._number("index", operator.index))

    def __float__(self) -> float:
        return float(self._number("float", float))

    def __hash__(self) -> int:
        value = self._value
        if value.is_tensor or not value.is_known:
            return id(self)
        self.tracer.decided = True
        return hash(value.one)

    def __len__(self) -> int:
        return self._parts(inspect.currentframe().f_back)  # type: ignore[union-attr]

    def __iter__(self) -> Iterator[Any]:
        parts = self._parts(inspect.currentframe().f_back)  # type: ignore[union-attr]
        return (self._does(operator.getitem, part) for part in range(parts))

    def _parts(self, asking: FrameType | None) -> int:
        """How many parts a tensor or a shape has."""
        value = self._value
        if isinstance(value.one, Unknown):
            self.tracer.check_shape(self.node)
            raise NotFollowed(f"it iterates over {self.node.name}, of which a trace knows no shape: {value.one.error}")
        one, two = len(value.one), len(value.two)
        # A shape has as many sides at every size.
        self.tracer.decided |= value.is_tensor
        if one != two:
            self.tracer.ask(Asked(asking, self.tracer.scope.module_path))
        return one

    def __contains__(self, item: Any) -> bool:
        return any(part == item for part in self)

    def __setitem__(self, _: Any, __: Any) -> None:
        raise NotFollowed("it writes into a part of a tensor, x[...] = ...: use torch.cat or torch.where")

    def __ceil__(self) -> Any:
        return self._does(math.ceil)

    def __floor__(self) -> Any:
        return self._does(math.floor)

    def __trunc__(self) -> Any:
        return self._does(math.trunc)

    def __round__(self, *digits: Any) -> Any:
        return self._does(round, *digits)

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other


def _writing(name: str) -> Callable[[Placeholder, Any], Any]:
    """``x += y`` writes into a tensor, and gives a new number where a shape is counted with."""

    def write(proxy: Placeholder, other: Any) -> Any:
        value = proxy._value
        counts = value.is_known and not value.is_tensor
        return proxy._does(getattr(operator, name if counts else f"i{name}"), other)

    return write


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Placeholder, f"__i{_name}__", _writing(_name))


def has_placeholder(value: Any) -> bool:
    """Whether a value is a placeholder, or a collection or slice with one."""
    if isinstance(value, (tuple, list)):
        return any(map(has_placeholder, value))
    if isinstance(value, dict):
        return any(map(has_placeholder, value.values()))
    if isinstance(value, slice):
        return any(map(has_placeholder, (value.start, value.stop, value.step)))
    return issubclass(type(value), fx.Proxy)


def _is_asserting(frame: FrameType) -> bool:
    """Whether the condition that a frame has come to is that of an ``assert``.

    What a network asserts of values holds for it, and is checked where it runs.
    """
    found = list(dis.get_instructions(frame.f_code))
    rest = [held for held in found if held.offset >= frame.f_lasti and held.opname not in ("TO_BOOL", "NOT_TAKEN")]
    if len(rest) < 2 or "JUMP" not in rest[0].opname:
        return False
    # Where the condition is false: behind a jump that is taken if it is true, else where the jump leads.
    behind = rest[1] if "IF_TRUE" in rest[0].opname else next(at for at in found if at.offset == rest[0].argval)
    return behind.opname == "LOAD_ASSERTION_ERROR" or "AssertionError" in behind.argrepr
