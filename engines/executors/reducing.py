"""The executor that a session works with at the moment: after memory ran out, one at a smaller schedule."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from engines.errors import OutOfMemory
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


class ReducingExecutor:
    """Opens a schedule, or the first of the smaller ones that fits; and again whenever memory runs out later.

    Like an executor it is used by one thread at a time.
    """

    def __init__(self, open_executor: OpenExecutor, schedule: Schedule, smaller: Iterable[Schedule] = ()) -> None:
        self.schedule = schedule
        """The latest that was opened or tried, also when it is closed by now."""
        self.reductions: tuple[Reduction, ...] = ()
        self._open_executor = open_executor
        self._smaller = deque(smaller)
        self._current: Executor | None = None
        self._open()

    @property
    def current(self) -> Executor:
        """The executor to use now. Raises :class:`BackendError` when there is none any more."""
        current = self._current
        if current is None:
            raise closed_error()
        return current

    @property
    def reducible(self) -> bool:
        """Whether there is a smaller schedule to go on with."""
        return bool(self._smaller)

    def reduce(self, reason: str) -> None:
        """Open the next smaller schedule in place of this one, which memory ran out at; only where it is reducible.

        Raises :class:`OutOfMemory` when none of them fits; nothing is open then.
        """
        # Its memory is what the next one needs.
        self.close()
        self._next(reason)
        self._open()

    def close(self) -> None:
        """Close the executor; harmless when called again."""
        current, self._current = self._current, None
        if current is not None:
            current.close()

    def _open(self) -> None:
        while True:
            try:
                self._current = self._open_executor(self.schedule)
            except OutOfMemory as error:
                if not self._smaller:
                    raise
                self._next(str(error))
            else:
                return

    def _next(self, reason: str) -> None:
        refused, self.schedule = self.schedule, self._smaller.popleft()
        self.reductions += (Reduction(refused, self.schedule, reason),)
