"""The slots of an executor on a device, for frames and for sub-batches: memory of their own, and marks in streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.devices.base import DeviceEngine, Event, Execution, TensorSpec, pinned_array
from engines.errors import BackendError
from engines.executors.buffers import CHANNELS, Buffers
from engines.executors.resources import Resources
from engines.schedules.phases import PhaseGrid


@dataclass(eq=False)
class FrameSlot:
    """Memory for one frame and for its predictions, on both sides."""

    view: NDArray[np.uint8]
    """The frame in pinned memory, ``(H, W, 3)``."""
    pinned: int
    frame: int
    prepare: Execution
    uploaded: Event
    """Behind the latest upload: the frame is on the device."""
    merged: int
    """The predictions so far, ``(..., *padded_size)``."""
    result: NDArray[Any]
    """These in pinned memory, as they were downloaded; not to be written through."""
    pinned_result: int
    merging: Event
    """Behind the latest sub-batch: its predictions are merged."""
    downloaded: Event
    """Behind the latest download."""
    loaded: bool = False
    begun: bool = False
    """A sub-batch of it was submitted."""


@dataclass(eq=False)
class SubBatchSlot:
    """One sub-batch under way."""

    predictions: int
    """As the trunk gave them, ``(phases, ..., i, j)``."""
    computed: Event
    """Behind the latest: they are there."""
    merged: Event
    """Behind the latest: they are merged."""
    frame: FrameSlot | None = None
    """Whose it is; ``None`` for nothing under way."""


def frame_slot(
    resources: Resources, prepare: DeviceEngine, grid: PhaseGrid, output: TensorSpec, buffers: Buffers
) -> FrameSlot:
    """Allocate one for predictions such as the output ``(phases, ..., i, j)``; ``prepare`` is still to be bound."""
    shape = (*grid.frame_size, CHANNELS)
    pinned, pinned_result = resources.pinned(buffers.frame), resources.pinned(buffers.merged)
    result = pinned_array(pinned_result, output.dtype, (*predictions_of_pixel(output), *grid.padded_size))
    result.flags.writeable = False
    return FrameSlot(
        view=pinned_array(pinned, np.dtype(np.uint8), shape),
        pinned=pinned,
        frame=resources.memory("frames", buffers.frame),
        prepare=resources.execution(prepare, {"frame": shape}),
        uploaded=resources.event(),
        merged=resources.memory("merged", buffers.merged),
        result=result,
        pinned_result=pinned_result,
        merging=resources.event(),
        downloaded=resources.event(),
    )


def sub_batch_slot(resources: Resources, buffers: Buffers) -> SubBatchSlot:
    """Allocate one."""
    return SubBatchSlot(resources.memory("predictions", buffers.predictions), resources.event(), resources.event())


def predictions_of_pixel(output: TensorSpec) -> tuple[int, ...]:
    """What a trunk's output ``(phases, ..., i, j)`` has for each pixel: ``()`` for labels, ``(classes,)`` for more."""
    sizes = output.shape[1:-2]
    if any(size is None for size in sizes):
        raise BackendError(f"the engine does not say how large its output {output.name!r} is; build it again")
    return tuple(size for size in sizes if size is not None)
