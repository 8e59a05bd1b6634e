"""Phases: where split batches lie in the full grid, and the windows of the image that produce them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from engines.errors import LayoutError

Size: TypeAlias = tuple[int, int]
"""``(height, width)``."""
Phase: TypeAlias = tuple[int, int]
"""``(row, column)``: the offset of a split batch in the full grid."""
Border: TypeAlias = tuple[int, int, int, int]
"""Zeros around the planes: ``(top, left, bottom, right)``."""


@dataclass(frozen=True)
class PhaseGrid:
    """The phases that a schedule walks in a loop, for one frame size.

    A pooling window ``(h, w)`` has ``h * w`` phases. The trunk computes phase ``(row, column)`` from one window
    of the prepared planes, ``planes[:, row : row + H', column : column + W']`` with ``(H', W')`` the
    ``window_size``, and its predictions belong at ``[row::h, column::w]`` of the padded frame.
    """

    frame_size: Size
    """The frame a user hands over."""
    padded_size: Size
    """The frame with rows and columns added at the bottom and on the right, a multiple of every window."""
    window: Size
    """The pooling window that the loop walks; ``(1, 1)`` where the trunk takes the whole frame."""
    border: Border
    """Zeros around the padded frame: the padding of the convolution that reads the windows."""

    def __post_init__(self) -> None:
        (height, width), (h, w) = self.padded_size, self.window
        if h < 1 or w < 1 or height % h or width % w:
            raise LayoutError(f"a window of {h}x{w} does not divide a padded frame of {height}x{width}")
        if not (0 < self.frame_size[0] <= height and 0 < self.frame_size[1] <= width):
            raise LayoutError(f"a frame of {self.frame_size} does not lie inside a padded frame of {self.padded_size}")
        if min(self.border) < 0:
            raise LayoutError(f"a border has no negative side; received {self.border}")

    @property
    def planes_size(self) -> Size:
        """Size of the prepared planes: the padded frame and its border."""
        top, left, bottom, right = self.border
        return self.padded_size[0] + top + bottom, self.padded_size[1] + left + right

    @property
    def window_size(self) -> Size:
        """Size of the window that one phase reads: all of the planes but ``(h - 1, w - 1)``."""
        return self.planes_size[0] - self.window[0] + 1, self.planes_size[1] - self.window[1] + 1

    @property
    def phase_size(self) -> Size:
        """Size of the predictions of one phase."""
        return self.padded_size[0] // self.window[0], self.padded_size[1] // self.window[1]

    @property
    def phases(self) -> list[Phase]:
        """All phases, row by row: the order in which a split makes its batches."""
        return [(row, column) for row in range(self.window[0]) for column in range(self.window[1])]

    def sub_batches(self, sub_batch: int) -> Iterator[list[Phase]]:
        """The phases in groups of ``sub_batch``; the last group may be smaller."""
        phases = self.phases
        for start in range(0, len(phases), sub_batch):
            yield phases[start : start + sub_batch]

    def cut(self, planes: NDArray[np.float32], phases: list[Phase]) -> NDArray[np.float32]:
        """The windows ``(len(phases), 3, H', W')`` of the planes ``(3, H, W)``."""
        height, width = self.window_size
        return np.stack([planes[:, row : row + height, column : column + width] for row, column in phases])

    def place(self, predictions: NDArray[np.generic], phases: list[Phase], into: NDArray[np.generic]) -> None:
        """Merge: put ``predictions (len(phases), ..., i, j)`` at their pixels of ``into (..., i*h, j*w)``."""
        h, w = self.window
        for prediction, (row, column) in zip(predictions, phases, strict=True):
            into[..., row::h, column::w] = prediction

    def at_phase(self, full: NDArray[np.generic], phase: Phase) -> NDArray[np.generic]:
        """The split batch of a padded map ``(..., H, W)`` at one phase, a view ``(..., H/h, W/w)``."""
        return full[..., phase[0] :: self.window[0], phase[1] :: self.window[1]]

    def crop(self, full: NDArray[np.generic]) -> NDArray[np.generic]:
        """The frame's own pixels ``(..., *frame_size)`` of a padded map, a view."""
        return full[..., : self.frame_size[0], : self.frame_size[1]]
