"""Anytime inference: complete predictions from some of the phases.

Phases are independent and may be walked in any order, so a walk can stop early. Pixels of the phases that are
still missing take the prediction of the nearest pixel that has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import LayoutError
from engines.schedules.phases import Phase, Size


@dataclass(frozen=True)
class Refinement:
    """A complete prediction from the phases computed so far."""

    prediction: NDArray[Any]
    """Labels ``(H, W)`` uint8, or ``(classes, H, W)`` float32; the caller's own."""
    computed: NDArray[np.bool_]
    """``(H, W)``: true where the pixel's own phase was computed, false where it was filled from its neighbour."""
    phases_done: int
    phases: int
    late_ms: float = 0.0
    """By how much the deadline was missed; 0 where it was kept, and where there was none."""

    @property
    def complete(self) -> bool:
        """Whether every pixel was computed: the prediction is then the network's."""
        return self.phases_done == self.phases


class NearestFill:
    """Knows for every phase of a window which computed one is nearest, in this window or a neighbouring one."""

    def __init__(self, window: Size) -> None:
        h, w = self._window = window
        self._rows, self._columns = np.divmod(np.arange(h * w), w)
        self._distances = np.full(h * w, np.iinfo(np.int64).max)
        self._sources = np.zeros((h * w, 2), np.int64)
        self._shifts = np.zeros((h * w, 2), np.int64)
        self.done: set[Phase] = set()

    def add(self, phases: list[Phase]) -> None:
        """These phases are computed now. Of equally near ones the first added stays, in its own window first."""
        h, w = self._window
        for row, column in phases:
            for down, right in _NEIGHBOURS:
                distances = (row + h * down - self._rows) ** 2 + (column + w * right - self._columns) ** 2
                nearer = distances < self._distances
                self._distances[nearer] = distances[nearer]
                self._sources[nearer] = row, column
                self._shifts[nearer] = down, right
        self.done.update(phases)

    def filled(self, merged: NDArray[Any]) -> NDArray[Any]:
        """A copy of ``merged (..., H, W)``, which holds the computed phases, with the others filled in."""
        if not self.done:
            raise LayoutError("nothing is computed yet, so there is nothing to fill from")
        h, w = self._window
        filled = merged.copy()
        for phase, source, shift in zip(
            zip(self._rows, self._columns, strict=True), self._sources, self._shifts, strict=True
        ):
            if (int(phase[0]), int(phase[1])) not in self.done:
                known = merged[..., source[0] :: h, source[1] :: w]
                filled[..., phase[0] :: h, phase[1] :: w] = _moved(known, int(shift[0]), int(shift[1]))
        return filled

    def computed(self, size: Size) -> NDArray[np.bool_]:
        """``size`` bool: true at the pixels of computed phases."""
        h, w = self._window
        mask = np.zeros(size, np.bool_)
        for row, column in self.done:
            mask[row::h, column::w] = True
        return mask


# This window first, then those beside, then those at the corners.
_NEIGHBOURS = sorted(
    ((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)), key=lambda shift: abs(shift[0]) + abs(shift[1])
)


def _moved(values: NDArray[Any], down: int, right: int) -> NDArray[Any]:
    """``values (..., i, j)`` moved by whole windows, the edge repeated where there is no neighbour."""
    if not (down or right):
        return values
    rows = np.clip(np.arange(values.shape[-2]) + down, 0, values.shape[-2] - 1)
    columns = np.clip(np.arange(values.shape[-1]) + right, 0, values.shape[-1] - 1)
    return values[..., rows[:, None], columns]
