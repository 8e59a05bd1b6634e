"""What a sub-batch spends its time on, by the device's own clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from engines.devices.base import Event, Stream
from engines.executors.device import DeviceExecutor
from engines.schedules.phases import Phase


@contextmanager
def stage_marks(executor: DeviceExecutor, image: NDArray[np.uint8]) -> Iterator[list[tuple[str, Event]]]:
    """Load a frame into slot 0, and mark the end of every stage of what is submitted of it inside.

    For an executor that nobody else uses meanwhile. The marks are gone afterwards.
    """
    device, marks = executor.device, list[tuple[str, Event]]()
    with ExitStack() as stack:
        stack.enter_context(device.current())

        def mark(stage: str, stream: Stream) -> None:
            event = device.create_event()
            stack.callback(device.destroy_event, event)
            device.record(event, stream)
            marks.append((stage, event))

        executor.load(image, 0)
        stack.callback(executor.unload, 0)
        executor.on_stage = mark
        try:
            yield marks
        finally:
            executor.on_stage = None


def stage_times_ms(executor: DeviceExecutor, image: NDArray[np.uint8], phases: list[Phase]) -> dict[str, float]:
    """Milliseconds of ``prepare``, ``cut``, ``trunk`` and ``merge`` for the first sub-batch of a frame.

    ``prepare`` includes the wait for the upload.
    """
    with stage_marks(executor, image) as marks:
        executor.submit(0, phases, 0)
        executor.wait(0)
        return {stage: executor.device.elapsed_ms(before, after) for (_, before), (stage, after) in pairwise(marks)}
