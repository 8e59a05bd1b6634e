"""How large the buffers of an executor on a device are: known before anything is opened, so that memory is planned."""

from __future__ import annotations

import math
from dataclasses import dataclass

from engines.schedules.phases import PhaseGrid

CHANNELS = 3
FLOAT, OFFSET = 4, 8
"""Bytes of a float32 and of an int64."""
SLOTS = 2
"""Frames that have a place at a time, and sub-batches."""


@dataclass(frozen=True)
class Buffers:
    """Bytes of one of each."""

    frame: int
    """``(H, W, 3)`` uint8."""
    planes: int
    """``(3, H, W)`` float32, with their border."""
    merged: int
    """``(..., H, W)``: the padded frame's predictions."""
    windows: int
    """``(phases, 3, H', W')`` float32."""
    predictions: int
    """``(phases, ..., i, j)``."""
    offsets: int
    """``(inner levels, 2)`` int64; 0 where there are none."""
    table: int
    """The offsets of all sub-batches."""

    @property
    def on_device(self) -> int:
        """All that an executor allocates on its device."""
        of_slots = self.frame + self.merged + self.predictions
        return SLOTS * of_slots + self.planes + self.windows + self.predictions + self.offsets + self.table


def buffers_of(grid: PhaseGrid, sub_batch: int, pixel_bytes: int) -> Buffers:
    """Those of a schedule.

    Args:
        grid: its phases.
        sub_batch: the most phases at a time, of those that go together.
        pixel_bytes: of the predictions of one pixel, 1 for labels.
    """
    inner = len(grid.inner_windows) * 2 * OFFSET
    (rows, columns), (g, f) = grid.window, grid.cut_window
    together = min(sub_batch, grid.largest_sub_batch if grid.inner_windows else rows * columns)
    return Buffers(
        frame=CHANNELS * math.prod(grid.frame_size),
        planes=CHANNELS * math.prod(grid.planes_size) * FLOAT,
        merged=math.prod(grid.padded_size) * pixel_bytes,
        windows=together * CHANNELS * math.prod(grid.crop_size) * FLOAT,
        predictions=together * math.prod(grid.phase_size) * pixel_bytes,
        offsets=inner,
        table=inner * (rows // g) * (columns // f),
    )
