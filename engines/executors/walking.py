"""Walking the phases of a frame on an executor, and anew on a smaller one when memory runs out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import BackendError, OutOfMemory
from engines.executors.base import Executor
from engines.executors.reducing import ReducingExecutor
from engines.schedules.phases import Phase, PhaseGrid


@dataclass(frozen=True)
class Step:
    """One sub-batch of a walk is merged. What it gives is to be asked for before the next step."""

    executor: Executor
    """Another one after the walk began anew."""
    slot: int
    """Of the frame."""
    phases: list[Phase]
    """Those of this sub-batch."""
    last: bool
    """Every phase of the frame is computed."""

    @property
    def grid(self) -> PhaseGrid:
        """The phases that are walked."""
        return self.executor.grid

    def merged(self) -> NDArray[Any]:
        """As :meth:`Executor.merged`."""
        return self.executor.merged(self.slot)

    def result(self) -> NDArray[Any]:
        """As :meth:`Executor.result`, of the last step."""
        return self.executor.result(self.slot)


@dataclass(eq=False)
class Frame:
    """A frame of a walk."""

    image: NDArray[np.uint8]
    """To load it from, also after memory ran out and the walk begins anew."""
    number: int = 0
    """Of the frames of a call, which take turns in the slots."""
    loaded_on: Executor | None = None
    submitted: int = 0
    """Sub-batches, since it was loaded."""

    def slot_of(self, executor: Executor) -> int:
        """Where it is loaded on an executor."""
        return self.number % executor.slots

    def load(self, executor: Executor) -> None:
        """Load it, unless it is loaded there."""
        if self.loaded_on is not executor:
            executor.load(self.image, self.slot_of(executor))
            self.loaded_on, self.submitted = executor, 0


class Walker:
    """Walks frames.

    Args:
        executors: what computes.
        check_open: called before every sub-batch; what it raises ends the walk.
    """

    def __init__(self, executors: ReducingExecutor, check_open: Callable[[], None]) -> None:
        self._executors = executors
        self._check_open = check_open
        self._under_way: deque[tuple[Frame, int]] = deque()
        """Sub-batches in the order in which they were submitted: whose, and in which slot."""
        self._submitted = 0
        """Sub-batches in all, which take turns in the slots."""

    def kept(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image as it is now, to begin anew with: the caller may use its array for something else meanwhile."""
        if not self._executors.reducible:
            return image
        try:
            return image.copy()
        except MemoryError as error:
            raise OutOfMemory("the memory does not suffice for a copy of the frame") from error

    def walk(
        self,
        frame: Frame,
        *,
        ahead: bool,
        on_begun: Callable[[], None] | None = None,
        following: Callable[[], Frame | None] = lambda: None,
    ) -> Generator[Step, None, None]:
        """A step after every sub-batch. With ``ahead`` the next ones are under way meanwhile.

        Where memory runs out and there is a smaller schedule, the walk begins anew. ``on_begun`` is called when the
        first sub-batches are under way. When none is left of this frame, those of the ``following`` one begin, which
        is to be walked next, or to be forgotten.
        """
        if self._under_way and self._under_way[0][0] is not frame:
            # Of a frame that was never walked.
            self._under_way.clear()
        while True:
            executor = self._executors.current
            slot = frame.slot_of(executor)
            try:
                frame.load(executor)
                yield from self._steps(executor, frame, ahead, on_begun, following)
            except OutOfMemory as error:
                if not self._executors.reducible:
                    raise
                reason = str(error)
            else:
                return
            finally:
                executor.unload(slot)
                self._under_way = deque(held for held in self._under_way if held[0] is not frame)
            self._under_way.clear()
            # Not where the error is at hand: its traceback holds the windows and the planes.
            self._executors.reduce(reason)

    def _steps(
        self,
        executor: Executor,
        frame: Frame,
        ahead: bool,
        on_begun: Callable[[], None] | None,
        following: Callable[[], Frame | None],
    ) -> Generator[Step, None, None]:
        groups = executor.grid.sub_batches(self._executors.schedule.sub_batch)
        at_a_time = executor.slots if ahead else 1
        for index, phases in enumerate(groups):
            self._check_open()
            self._submit(executor, frame, groups, at_a_time)
            if on_begun is not None:
                on_begun()
                on_begun = None
            if (after := following()) is not None and after.loaded_on is executor:
                with suppress(BackendError):
                    # Its own walk submits it again, and says what is wrong.
                    self._submit(executor, after, groups, at_a_time)
            _, slot = self._under_way.popleft()
            executor.wait(slot)
            yield Step(executor, frame.slot_of(executor), phases, last=index == len(groups) - 1)

    def _submit(self, executor: Executor, frame: Frame, groups: list[list[Phase]], at_a_time: int) -> None:
        """As many sub-batches of a frame as there are slots for, and as it has left."""
        while len(self._under_way) < at_a_time and frame.submitted < len(groups):
            slot = self._submitted % executor.slots
            executor.submit(frame.slot_of(executor), groups[frame.submitted], slot)
            self._submitted += 1
            frame.submitted += 1
            self._under_way.append((frame, slot))
