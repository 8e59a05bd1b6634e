"""The slots of an executor on a device: memory for one frame each, and for the predictions of one sub-batch each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.devices.base import DeviceEngine, Event, Execution, TensorSpec, pinned_array
from engines.executors.resources import Resources
from engines.schedules.phases import PhaseGrid

CHANNELS = 3
FLOAT = 4
"""Bytes."""


@dataclass(eq=False)
class FrameSlot:
    """Memory for one frame, on both sides, and for its planes."""

    view: NDArray[np.uint8]
    """The frame in pinned memory, ``(H, W, 3)``."""
    pinned: int
    frame: int
    planes: int
    prepare: Execution
    uploaded: Event
    """Behind the latest upload: the frame is on the device."""
    loaded: bool = False
    prepared: bool = False


@dataclass(eq=False)
class SubBatchSlot:
    """Pinned memory for the predictions of one sub-batch."""

    view: NDArray[Any]
    """Those of the largest sub-batch, ``(phases, ..., i, j)``; not to be written through."""
    pinned: int
    done: Event
    """Behind the latest download: the predictions are here."""
    phases: int = 0
    """What is under way; 0 for nothing."""
    frame: FrameSlot | None = None

    def size(self, phases: int) -> int:
        """Bytes of the predictions of so many phases."""
        return self.view[:phases].nbytes


def frame_slot(resources: Resources, prepare: DeviceEngine, grid: PhaseGrid) -> FrameSlot:
    """Allocate one; its ``prepare`` is still to be bound."""
    shape = (*grid.frame_size, CHANNELS)
    pinned = resources.pinned(math.prod(shape))
    return FrameSlot(
        view=pinned_array(pinned, np.dtype(np.uint8), shape),
        pinned=pinned,
        frame=resources.memory("frames", math.prod(shape)),
        planes=resources.memory("planes", CHANNELS * math.prod(grid.planes_size) * FLOAT),
        prepare=resources.execution(prepare, {"frame": shape}),
        uploaded=resources.event(),
    )


def sub_batch_slot(resources: Resources, output: TensorSpec, shape: tuple[int, ...]) -> SubBatchSlot:
    """Allocate one for predictions of this shape."""
    pinned = resources.pinned(math.prod(shape) * output.dtype.itemsize)
    view = pinned_array(pinned, output.dtype, shape)
    view.flags.writeable = False
    return SubBatchSlot(view, pinned, resources.event())
