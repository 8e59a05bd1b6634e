"""The executor that a session works with at the moment: after memory ran out, one at a smaller schedule."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from engines.errors import BackendError, OutOfMemory
from engines.executors.base import Executor, closed_error
from engines.schedules.schedule import Schedule

OpenExecutor: TypeAlias = Callable[[Schedule], Executor]
"""Opens an executor at a schedule."""


@dataclass(frozen=True)
class Reduction:
    """Memory ran out at one schedule, and another one was tried in its place."""

    refused: Schedule
    tried: Schedule
    reason: str

    def __str__(self) -> str:
        return f"{self.refused} did not fit: {self.reason}; trying {self.tried}"


@dataclass(frozen=True, eq=False)
class OpenedExecutor:
    """An executor and its schedule."""

    executor: Executor
    schedule: Schedule


class ReducingExecutor:
    """Opens a schedule, or the first of the smaller ones that fits; and again whenever memory runs out later.

    Safe to use from several threads.
    """

    def __init__(self, open_executor: OpenExecutor, schedule: Schedule, smaller: Iterable[Schedule] = ()) -> None:
        self.schedule = schedule
        """The latest that was opened or tried, also when it is closed by now."""
        self.reductions: tuple[Reduction, ...] = ()
        self._open_executor = open_executor
        self._smaller = deque(smaller)
        self._lock = threading.Lock()
        self._current: OpenedExecutor | None = None
        self._open(schedule)

    def current(self) -> OpenedExecutor:
        """The executor to use now. Raises :class:`BackendError` when there is none any more."""
        with self._lock:
            if self._current is None:
                raise closed_error()
            return self._current

    def replaced(self, failed: OpenedExecutor, error: BackendError) -> bool:
        """Whether another executor took the place of one that raised ``error``, for want of memory.

        Raises :class:`OutOfMemory` when none of the smaller schedules fits; nothing is open then.
        """
        with self._lock:
            if self._current is not failed:
                # Another thread was first, or everything is closed.
                return self._current is not None
            if not isinstance(error, OutOfMemory) or not self._smaller:
                return False
            # Its memory is what the next one needs.
            self._current = None
            failed.executor.close()
            self._open(self._next(failed.schedule, error))
            return True

    def close(self) -> None:
        """Close the executor; harmless when called again."""
        with self._lock:
            current, self._current = self._current, None
        if current is not None:
            current.executor.close()

    def _open(self, schedule: Schedule) -> None:
        while True:
            self.schedule = schedule
            try:
                self._current = OpenedExecutor(self._open_executor(schedule), schedule)
            except OutOfMemory as error:
                if not self._smaller:
                    raise
                schedule = self._next(schedule, error)
            else:
                return

    def _next(self, refused: Schedule, error: OutOfMemory) -> Schedule:
        schedule = self._smaller.popleft()
        self.reductions += (Reduction(refused, schedule, str(error)),)
        return schedule
