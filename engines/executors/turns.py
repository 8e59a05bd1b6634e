"""Turns: one call at a time uses a session, and nobody waits for somebody who may never come back.

A call that computes and returns makes others wait. A generator holds the session from its first step to its end, which
may never come: so whoever calls meanwhile is refused at once. Closing waits for work, but never for the caller's own
code, which runs between the steps of a generator, in a callback or in a source of frames: see :meth:`Turn.outside`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engines.errors import InputError
from engines.executors.base import closed_error


class Turn:
    """One call's use of a session. Always to be left, also where taking it failed::

        turn = turns.turn("predict")
        try:
            turn.take()
            ...
        finally:
            turn.leave()

    With a ``with`` statement Ctrl-C could come between taking and the block, and the session would be held for good.
    """

    def __init__(self, turns: Turns, call: str, *, unfinished: bool) -> None:
        self.call = call
        self.unfinished = unfinished
        """Whether it stays between two steps of the caller's."""
        self.thread = threading.get_ident()
        self._turns = turns

    def take(self) -> None:
        """Wait for the turn.

        Raises :class:`InputError` where that could be for ever, and :class:`BackendError` when the session is closed.
        """
        self._turns.take(self)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """The caller's own code runs inside: the session may be closed meanwhile, and then leaving it says so."""
        self._turns.pause(self)
        yield
        self._turns.resume(self)

    def leave(self) -> None:
        """The next one may go on; harmless when called again."""
        self._turns.leave(self)


class Turns:
    """Who uses a session and who waits for it, in the order of arrival.

    Args:
        end: closes what the session works with; called when it is closed and nobody is at work. Harmless when called
            again.
    """

    def __init__(self, end: Callable[[], None]) -> None:
        # Its lock can be taken again: a generator that is collected as garbage leaves in the middle of anything.
        self._condition = threading.Condition(threading.RLock())
        self._queue: deque[Turn] = deque()
        """The first has the turn, the others wait."""
        self._working: int | None = None
        """The thread that is at work inside its turn."""
        self._closed = False
        self._end = end

    def turn(self, call: str, *, unfinished: bool = False) -> Turn:
        """A turn for a call of this name, by this thread; nothing waits yet."""
        return Turn(self, call, unfinished=unfinished)

    def take(self, turn: Turn) -> None:
        """See :meth:`Turn.take`."""
        with self._condition:
            self._check(turn)
            self._queue.append(turn)
            while self._queue[0] is not turn:
                self._condition.wait()
                self._check(turn)
            self._working = threading.get_ident()

    def pause(self, turn: Turn) -> None:
        """Work stops; the turn stays."""
        with self._condition:
            if self._queue and self._queue[0] is turn:
                self._stop_work()

    def resume(self, turn: Turn) -> None:
        """Work goes on. Raises :class:`BackendError` when the session is closed."""
        with self._condition:
            self.check_open()
            self._working = threading.get_ident()

    def leave(self, turn: Turn) -> None:
        """See :meth:`Turn.leave`."""
        with self._condition:
            if turn not in self._queue:
                return
            held = self._queue[0] is turn
            self._queue.remove(turn)
            if held:
                self._stop_work()
            self._condition.notify_all()

    def check_open(self) -> None:
        """Raises :class:`BackendError` when the session is closed, or is to be once nobody is at work."""
        if self._closed:
            raise closed_error()

    def close(self) -> None:
        """Whoever waits is told, whoever is at work finishes its sub-batch, then everything is closed."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            if self._working == threading.get_ident():
                # As from a signal's handler: the work that it interrupts ends everything when it stops.
                return
            self._condition.wait_for(lambda: self._working is None)
            self._end()

    def _stop_work(self) -> None:
        self._working = None
        self._condition.notify_all()
        if self._closed:
            self._end()

    def _check(self, turn: Turn) -> None:
        self.check_open()
        if not self._queue or self._queue[0] is turn:
            return
        first = self._queue[0]
        if first.unfinished:
            raise InputError(
                f"{first.call} is unfinished on this session: take all that it gives, or close() it, before "
                f"{turn.call} is called"
            )
        if first.thread == turn.thread:
            raise InputError(
                f"{first.call} is at work on this session in this thread, so {turn.call} cannot be called from within "
                "it; call it afterwards, or open a second session"
            )
