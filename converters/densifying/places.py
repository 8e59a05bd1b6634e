"""Where a feature map of a strided network lies in its dense form, and what it then is to the strided one.

A map of the strided network after strides ``s1, s2, ...`` is, in the dense network, ``s1*s2*...`` split batches of the
same rows and columns: one for each shift of the image. So every node has the size that it has in the strided network,
and its *stack* says of how many shifts there is one.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from converters.analysis.levels import total_window
from converters.densifying.arguments import Pair
from converters.pooling import Window

Stack = tuple[Window, ...]
"""Windows of the splits before a point, outermost first."""


class Standing(enum.Enum):
    """What a map of the dense network is to the strided network."""

    SHIFTS = "shifts"
    """Each split batch is the strided network's map for one shift of the image."""
    STITCHED = "stitched"
    """These maps of all shifts, merged in the place of an upsampling, with nothing but pointwise layers since."""
    MEAN = "mean of shifts"
    """The mean, over all shifts, of the strided network's maps: merges and the upsamplings' own kernels, and since then
    nothing but linear layers."""
    JOINED = "joined"
    """Another function: maps of several levels meet, or something not linear follows an upsampling."""


@dataclass(frozen=True)
class Place:
    """What is known of a node."""

    stack: Stack
    on_grid: bool
    """Whether its rows and columns are those of its level. Pooled context, statistics and tokens are not on it."""
    standing: Standing = Standing.SHIFTS

    def off_grid(self) -> Place:
        """The same, of what has other rows and columns."""
        return replace(self, on_grid=False)

    def deeper(self, stride: Pair) -> Place:
        """After a stride that has become a split."""
        return replace(self, stack=(*self.stack, *windows_of(stride)))


def windows_of(stride: Pair) -> Stack:
    """A stride as nested windows of prime sides, the same everywhere: 4x4 is 2x2, 2x2.

    So whatever brings a map back by a part of it finds a level there.
    """
    rows, columns = _primes(stride[0]), _primes(stride[1])
    count = max(len(rows), len(columns))
    rows, columns = rows + [1] * (count - len(rows)), columns + [1] * (count - len(columns))
    return tuple(zip(rows, columns, strict=True))


def factor_of(stack: Stack, target: Stack) -> Pair:
    """How much finer ``target`` is than ``stack``, which begins with it."""
    return total_window(stack[len(target) :])


def shallowest(stacks: Sequence[Stack]) -> Stack | None:
    """The stack that all of them begin with, if one of them does."""
    least = min(stacks, key=len)
    return least if all(stack[: len(least)] == least for stack in stacks) else None


def _primes(number: int) -> list[int]:
    found, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found
