"""Frames at the edges of what a camera gives, made from their size alone: the same on every machine."""

from __future__ import annotations

import enum
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from engines.schedules.phases import Size

Image = NDArray[np.uint8]
"""``(H, W, 3)`` uint8 RGB."""


class EdgeFrame(enum.Enum):
    """What a frame shows."""

    BLACK = "black"
    """Every value 0."""
    WHITE = "white"
    """Every value 255."""
    SINGLE_COLOUR = "single colour"
    """Red alone: one channel at 255, the others at 0."""
    DARK = "dark"
    """Noise from 0 to 15, as at night."""
    BRIGHT = "bright"
    """Noise from 240 to 255, as towards the sun."""
    SATURATED = "saturated"
    """Blocks of 8x8 whose channels are 0 or 255 each."""
    LOW_CONTRAST = "low contrast"
    """Noise from 124 to 131, as in fog."""
    CHECKERBOARD = "checkerboard"
    """0 and 255 in turn, pixel by pixel."""


def edge_frame(kind: EdgeFrame, size: Size) -> Image:
    """A frame ``(H, W, 3)`` uint8."""
    return _MAKERS[kind](size)


def _plain(*colour: int) -> Callable[[Size], Image]:
    return lambda size: np.broadcast_to(np.array(colour, np.uint8), (*size, 3)).copy()


def _noise(low: int, values: int) -> Callable[[Size], Image]:
    return lambda size: (low + _random(size) % values).astype(np.uint8)


def _saturated(size: Size) -> Image:
    rows, columns = np.arange(size[0]) // 8, np.arange(size[1]) // 8
    return (_random(size)[rows][:, columns] % 2 * 255).astype(np.uint8)


def _checkerboard(size: Size) -> Image:
    rows, columns = np.indices(size)
    return np.repeat(((rows + columns) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)


def _random(size: Size) -> NDArray[np.uint32]:
    """Evenly spread bits for every pixel and channel, by whole numbers alone (Wang's hash)."""
    held = np.arange(size[0] * size[1] * 3, dtype=np.uint32).reshape(*size, 3)
    held = (held ^ np.uint32(61)) ^ (held >> np.uint32(16))
    held = held * np.uint32(9)
    held = held ^ (held >> np.uint32(4))
    held = held * np.uint32(0x27D4EB2D)
    return (held ^ (held >> np.uint32(15))) >> np.uint32(8)


_MAKERS: dict[EdgeFrame, Callable[[Size], Image]] = {
    EdgeFrame.BLACK: _plain(0, 0, 0),
    EdgeFrame.WHITE: _plain(255, 255, 255),
    EdgeFrame.SINGLE_COLOUR: _plain(255, 0, 0),
    EdgeFrame.DARK: _noise(0, 16),
    EdgeFrame.BRIGHT: _noise(240, 16),
    EdgeFrame.SATURATED: _saturated,
    EdgeFrame.LOW_CONTRAST: _noise(124, 8),
    EdgeFrame.CHECKERBOARD: _checkerboard,
}
