"""A schedule: how the work on one frame is cut into pieces (docs/concepts.md), and in what it is computed."""

from __future__ import annotations

import enum
from typing import TypeVar

import msgspec

from engines.errors import InputError, LayoutError


class Precision(enum.Enum):
    """Arithmetic of the network inside a graph; its inputs and outputs are the same in every precision."""

    FP32 = "fp32"
    """IEEE single precision, on every backend."""
    TF32 = "tf32"
    """Of the fp32 graph, with convolutions of numbers that NVIDIA's matrix units have cut to 10 bits of mantissa."""
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    """Convolutions of whole numbers, explicitly quantized; all else is single precision."""

    @property
    def graph(self) -> Precision:
        """That of the graph which it is computed from."""
        return Precision.FP32 if self is Precision.TF32 else self


class Lowering(enum.Enum):
    """How the splits inside a trunk are computed: three forms of one function."""

    RESHAPE = "reshape"
    """Reshape and Transpose: the reference."""
    STRIDED = "strided"
    """Strided convolutions, one for each phase of the window, concatenated on the batch axis."""
    DILATED = "dilated"
    """No rearrangement: convolutions after the split are dilated by its window."""


_Member = TypeVar("_Member", bound=enum.Enum)


def named(kind: type[_Member], argument: str, value: _Member | str) -> _Member:
    """``"fp16"`` -> ``Precision.FP16``; a member stays itself.

    Raises :class:`InputError` with what there is, and with the argument that the value was given for.
    """
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(str(member.value) for member in kind)
        raise InputError(f"{argument}={value!r} is unknown; known are {known}") from error


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which levels are walked in a loop over their phases, how many phases at a time, and how the rest is computed.

    Every schedule of a bundle gives the same result; they differ in memory and time.
    """

    levels: int
    """The first splits of the network, which the loop stands for."""
    sub_batch: int = 1
    """Phases at a time."""
    lowering: Lowering = Lowering.RESHAPE

    def __post_init__(self) -> None:
        """Raise :class:`LayoutError` for what no loop can walk."""
        if self.levels < 0 or self.sub_batch < 1:
            raise LayoutError(f"a schedule has levels from 0 and a sub-batch from 1; received {self}")

    def __str__(self) -> str:
        return f"levels {self.levels}, sub-batch {self.sub_batch}, {self.lowering.value}"
