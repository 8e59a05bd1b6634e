"""The clock of a prediction that has to be there by a deadline."""

from __future__ import annotations

import time

from engines.planning.deadlines import checked_deadline


class Deadline:
    """When a prediction is to be there, in milliseconds from now."""

    def __init__(self, deadline_ms: float) -> None:
        self._begun = time.monotonic()
        self._at = self._begun + checked_deadline(deadline_ms) / 1000
        self._slowest = 0.0

    def begin(self) -> None:
        """The first sub-batch begins. It also prepares the frame: an estimate of the others on the safe side."""
        self._begun = time.monotonic()

    def step(self) -> None:
        """A sub-batch ends, the next one would begin."""
        now = time.monotonic()
        self._slowest, self._begun = max(self._slowest, now - self._begun), now

    def ends_before_another(self, filling_s: float) -> bool:
        """Whether one more sub-batch, as slow as the slowest so far, and filling in would end too late."""
        return time.monotonic() + self._slowest + filling_s > self._at

    @property
    def late_ms(self) -> float:
        """By how much it is missed now, 0 before it."""
        return max(0.0, 1000 * (time.monotonic() - self._at))
