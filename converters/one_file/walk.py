"""Which phases each iteration of a packed file computes, and where its predictions lie in the stack of all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from engines.schedules.phases import Phase, PhaseGrid


@dataclass(frozen=True)
class Walk:
    """The sub-batches of a grid in row order: first by the inner offsets, then by where the windows are cut.

    All of them have the same size, since a graph has one shape: where the phases that share their inner offsets are no
    multiple of the sub-batch, the last one begins anew with the first ones of them. What is computed twice is dropped
    by the merge.
    """

    grid: PhaseGrid
    sub_batch: int
    """Phases of an iteration; at most those that can go together."""

    @property
    def inner(self) -> tuple[int, int]:
        """The window of the levels whose offset acts inside the trunk."""
        (h, w), (g, f) = self.grid.window, self.grid.cut_window
        return h // g, w // f

    @property
    def sharing(self) -> int:
        """Sub-batches that share their inner offsets."""
        return -(-self.grid.largest_sub_batch // self.sub_batch)

    @cached_property
    def sub_batches(self) -> list[list[Phase]]:
        """The phases of every iteration."""
        (g, f), (down, right) = self.grid.cut_window, self.inner
        cuts = [(row, column) for row in range(g) for column in range(f)]
        padded = [cuts[index % len(cuts)] for index in range(self.sharing * self.sub_batch)]
        return [
            [(row + g * k, column + f * m) for row, column in padded[start : start + self.sub_batch]]
            for k in range(down)
            for m in range(right)
            for start in range(0, len(padded), self.sub_batch)
        ]

    @property
    def trips(self) -> int:
        """Iterations."""
        return self.inner[0] * self.inner[1] * self.sharing

    def origins(self) -> NDArray[np.int64]:
        """Where the windows of every iteration are cut from the planes, ``(trips, sub-batch, 2)``."""
        g, f = self.grid.cut_window
        return np.array([[(row % g, column % f) for row, column in phases] for phases in self.sub_batches], np.int64)

    def offsets(self) -> NDArray[np.int64]:
        """The inner offsets of every iteration, ``(trips, inner levels, 2)``."""
        return np.stack([self.grid.inner_offsets(phases) for phases in self.sub_batches])
