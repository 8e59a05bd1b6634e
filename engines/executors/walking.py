"""Walking the phases of a frame on an executor, and anew on a smaller one when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.bundle.manifest import Manifest, OutputKind
from engines.errors import BackendError, OutOfMemory
from engines.executors.base import Executor
from engines.executors.reducing import ReducingExecutor
from engines.schedules.phases import Phase, PhaseGrid
from engines.schedules.schedule import Schedule


@dataclass(frozen=True)
class Step:
    """One sub-batch of a walk is merged."""

    grid: PhaseGrid
    phases: list[Phase]
    merged: NDArray[Any]
    """The padded result so far, another array after the walk began anew."""


@dataclass(eq=False)
class Frame:
    """A frame of a walk."""

    image: NDArray[np.uint8]
    """To load it from, also after memory ran out and the walk begins anew."""
    number: int = 0
    """Of the frames of a call, which take turns in the slots."""
    loaded_on: Executor | None = None

    def slot_of(self, executor: Executor) -> int:
        """Where it is loaded on an executor."""
        return self.number % executor.slots

    def load(self, executor: Executor) -> None:
        """Load it, unless it is loaded there."""
        if self.loaded_on is not executor:
            executor.load(self.image, self.slot_of(executor))
            self.loaded_on = executor


class Walker:
    """Walks frames of a bundle.

    Args:
        manifest: of the bundle.
        executors: what computes.
        check_open: called before every sub-batch; what it raises ends the walk.
    """

    def __init__(self, manifest: Manifest, executors: ReducingExecutor, check_open: Callable[[], None]) -> None:
        self._manifest = manifest
        self._executors = executors
        self._check_open = check_open

    def kept(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image as it is now, to begin anew with: the caller may use its array for something else meanwhile."""
        if not self._executors.reducible:
            return image
        try:
            return image.copy()
        except MemoryError as error:
            raise OutOfMemory("the memory does not suffice for a copy of the frame") from error

    def walk(
        self, frame: Frame, *, ahead: bool, on_begun: Callable[[], None] | None = None
    ) -> Generator[Step, None, None]:
        """A step after every sub-batch. With ``ahead`` the next ones are under way meanwhile.

        Where memory runs out and there is a smaller schedule, the walk begins anew. ``on_begun`` is called when the
        first sub-batches are under way.
        """
        while True:
            executor = self._executors.current
            slot = frame.slot_of(executor)
            try:
                frame.load(executor)
                yield from self._steps(executor, slot, ahead, on_begun)
            except OutOfMemory as error:
                if not self._executors.reducible:
                    raise
                reason = str(error)
            else:
                return
            finally:
                executor.unload(slot)
            # Not where the error is at hand: its traceback holds the windows and the planes.
            self._executors.reduce(reason)

    def _steps(
        self, executor: Executor, slot: int, ahead: bool, on_begun: Callable[[], None] | None
    ) -> Generator[Step, None, None]:
        schedule = self._executors.schedule
        grid = self.grid(schedule)
        merged = self._empty_result(grid)
        groups = grid.sub_batches(schedule.sub_batch)
        at_a_time = executor.slots if ahead else 1
        submitted = 0
        for index, phases in enumerate(groups):
            self._check_open()
            while submitted < min(index + at_a_time, len(groups)):
                executor.submit(slot, groups[submitted], submitted % at_a_time)
                submitted += 1
            if on_begun is not None:
                on_begun()
                on_begun = None
            predictions = executor.collect(index % at_a_time)
            if predictions.shape != (len(phases), *merged.shape[:-2], *grid.phase_size):
                # numpy would spread a smaller result over the phase.
                raise BackendError(f"the trunk gave {predictions.shape} for {len(phases)} phases of {grid.phase_size}")
            grid.place(predictions, phases, merged)
            yield Step(grid, phases, merged)

    def grid(self, schedule: Schedule) -> PhaseGrid:
        """The phases of a schedule of the bundle."""
        return self._manifest.grid(self._manifest.trunk_of(schedule))

    def _empty_result(self, grid: PhaseGrid) -> NDArray[Any]:
        try:
            if self._manifest.outputs is OutputKind.LABELS:
                return np.empty(grid.padded_size, np.uint8)
            return np.empty((len(self._manifest.classes), *grid.padded_size), np.float32)
        except MemoryError as error:
            raise OutOfMemory("the memory does not suffice for the merged result") from error
