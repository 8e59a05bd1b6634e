"""Phases: where split batches lie in the full grid, and the windows of the image that produce them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.errors import LayoutError

_Number = TypeVar("_Number", bound=np.generic)

Size: TypeAlias = tuple[int, int]
"""``(height, width)``."""
Phase: TypeAlias = tuple[int, int]
"""``(row, column)``: the offset of a split batch in the full grid."""
Border: TypeAlias = tuple[int, int, int, int]
"""Zeros around the planes: ``(top, left, bottom, right)``."""


def padded_size(size: Size, multiple: Size) -> Size:
    """The smallest size that is at least this one and a multiple of ``multiple`` on each side."""
    return -(-size[0] // multiple[0]) * multiple[0], -(-size[1] // multiple[1]) * multiple[1]


@dataclass(frozen=True)
class PhaseGrid:
    """The phases that a schedule walks in a loop, for one frame size.

    A pooling window ``(h, w)`` has ``h * w`` phases, and the predictions of phase ``(row, column)`` belong at
    ``[row::h, column::w]`` of the padded frame. The window is that of the levels whose offset is where a window is
    cut from the prepared planes, times those of the levels whose offset acts inside the trunk. With ``(g, f)`` the
    window of the former, the trunk computes a phase from ``planes[:, r : r + H', c : c + W']``, where
    ``(r, c) = (row % g, column % f)`` and ``(H', W')`` is the ``crop_size``, and from the inner offsets, the
    digits of ``(row // g, column // f)`` in the mixed radix of the inner windows.
    """

    frame_size: Size
    """The frame a user hands over."""
    padded_size: Size
    """The frame with rows and columns added at the bottom and on the right, a multiple of every window."""
    cut_window: Size
    """The pooling window of the levels whose offset is where a window is cut; ``(1, 1)`` for none."""
    border: Border
    """Zeros around the padded frame: the padding of the convolution that reads the windows."""
    inner_windows: tuple[Size, ...] = ()
    """The windows of the levels whose offset acts inside the trunk, outermost first."""

    def __post_init__(self) -> None:
        (height, width), (h, w) = self.padded_size, self.window
        if min(h, w, *(side for window in self.inner_windows for side in window)) < 1 or height % h or width % w:
            raise LayoutError(f"a window of {h}x{w} does not divide a padded frame of {height}x{width}")
        if not (0 < self.frame_size[0] <= height and 0 < self.frame_size[1] <= width):
            raise LayoutError(f"a frame of {self.frame_size} does not lie inside a padded frame of {self.padded_size}")
        if min(self.border) < 0:
            raise LayoutError(f"a border has no negative side; received {self.border}")

    @property
    def window(self) -> Size:
        """The pooling window that the loop walks; ``(1, 1)`` where the trunk takes the whole frame at once."""
        windows = (self.cut_window, *self.inner_windows)
        return math.prod(h for h, _ in windows), math.prod(w for _, w in windows)

    @property
    def planes_size(self) -> Size:
        """Size of the prepared planes: the padded frame and its border."""
        top, left, bottom, right = self.border
        return self.padded_size[0] + top + bottom, self.padded_size[1] + left + right

    @property
    def crop_size(self) -> Size:
        """Size of the window that one phase reads: all of the planes but ``(g - 1, f - 1)``."""
        return self.planes_size[0] - self.cut_window[0] + 1, self.planes_size[1] - self.cut_window[1] + 1

    @property
    def phase_size(self) -> Size:
        """Size of the predictions of one phase."""
        return self.padded_size[0] // self.window[0], self.padded_size[1] // self.window[1]

    @property
    def phases(self) -> list[Phase]:
        """All phases, row by row: the order in which a split makes its batches."""
        return [(row, column) for row in range(self.window[0]) for column in range(self.window[1])]

    @property
    def largest_sub_batch(self) -> int:
        """Phases that the trunk can take at a time: those that share their inner offsets."""
        return self.cut_window[0] * self.cut_window[1]

    def sub_batches(self, sub_batch: int) -> list[list[Phase]]:
        """The phases in groups of at most ``sub_batch`` that share their inner offsets, in a dispersed order.

        At every moment the phases so far cover the window about evenly, so that a walk that stops early leaves
        no large hole: phase after phase lies as far as possible from those before.
        """
        (g, f), window = self.cut_window, self.window
        if sub_batch == 1 or not self.inner_windows:
            order = dispersed(window)
            return [order[start : start + sub_batch] for start in range(0, len(order), sub_batch)]
        cuts = dispersed(self.cut_window)
        inner = dispersed((window[0] // g, window[1] // f))
        return [
            [(row + g * down, column + f * right) for row, column in cuts[start : start + sub_batch]]
            for start in range(0, len(cuts), sub_batch)
            for down, right in inner
        ]

    def cut(self, planes: NDArray[_Number], phases: list[Phase]) -> NDArray[_Number]:
        """The windows ``(len(phases), 3, H', W')`` of the planes ``(3, H, W)``."""
        (height, width), (g, f) = self.crop_size, self.cut_window
        origins = [(row % g, column % f) for row, column in phases]
        return np.stack([planes[:, row : row + height, column : column + width] for row, column in origins])

    def inner_offsets(self, phases: list[Phase]) -> NDArray[np.int64]:
        """The offsets ``(inner levels, 2)`` that these phases share, outermost level first.

        Raises :class:`LayoutError` when they differ: then the phases cannot be one sub-batch.
        """
        (g, f), digits = self.cut_window, []
        shared = {(row // g, column // f) for row, column in phases}
        if len(shared) != 1:
            raise LayoutError(f"phases of one sub-batch share their inner offsets; {phases} do not")
        row, column = shared.pop()
        for h, w in self.inner_windows:
            digits.append((row % h, column % w))
            row, column = row // h, column // w
        return np.array(digits, np.int64).reshape(-1, 2)

    def feed(self, planes: NDArray[np.float32], phases: list[Phase]) -> dict[str, NDArray[Any]]:
        """The inputs of the trunk for one sub-batch: windows, and offsets where levels act inside it."""
        feed: dict[str, NDArray[Any]] = {"windows": self.cut(planes, phases)}
        if self.inner_windows:
            feed["offsets"] = self.inner_offsets(phases)
        return feed

    def place(self, predictions: NDArray[np.generic], phases: list[Phase], into: NDArray[np.generic]) -> None:
        """Merge: put ``predictions (len(phases), ..., i, j)`` at their pixels of ``into (..., i*h, j*w)``."""
        h, w = self.window
        for prediction, (row, column) in zip(predictions, phases, strict=True):
            into[..., row::h, column::w] = prediction

    def at_phase(self, full: NDArray[np.generic], phase: Phase) -> NDArray[np.generic]:
        """The split batch of a padded map ``(..., H, W)`` at one phase, a view ``(..., H/h, W/w)``."""
        return full[..., phase[0] :: self.window[0], phase[1] :: self.window[1]]

    def unpadded(self, full: NDArray[np.generic]) -> NDArray[np.generic]:
        """The frame's own pixels ``(..., *frame_size)`` of a padded map, a view."""
        return full[..., : self.frame_size[0], : self.frame_size[1]]


def dispersed(window: Size) -> list[Phase]:
    """All phases of a window, each as far as possible from those before it, with the window repeated all around.

    Of equally far ones the first in row order comes next, among those that are farthest from the last one.
    """
    return list(_dispersed(window))


@functools.lru_cache(maxsize=64)
def _dispersed(window: Size) -> tuple[Phase, ...]:
    h, w = window
    rows, columns = np.divmod(np.arange(h * w), w)

    def squared_distances(phase: int) -> NDArray[np.int64]:
        down, right = np.abs(rows - rows[phase]), np.abs(columns - columns[phase])
        squared: NDArray[np.int64] = np.minimum(down, h - down) ** 2 + np.minimum(right, w - right) ** 2
        return squared

    order = [0]
    last = nearest = squared_distances(0)
    for _ in range(h * w - 1):
        # The nearest computed phase decides; the distance to the last one breaks ties.
        candidates = np.flatnonzero(nearest == nearest.max())
        order.append(int(candidates[last[candidates].argmax()]))
        last = squared_distances(order[-1])
        nearest = np.minimum(nearest, last)
    return tuple((int(rows[phase]), int(columns[phase])) for phase in order)
