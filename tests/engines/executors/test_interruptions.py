"""Sessions on a device that are closed, interrupted or left in the middle: one clear error, and nothing is left."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from engines import Bundle, Schedule
from engines.errors import BackendError
from tests.engines.executors.host_device import HostDevice
from tests.engines.executors.host_engine import frames, session_on


class Watched(HostDevice):
    """Calls ``on_wait`` with the number of each wait of the host for an event, before it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.on_wait: Callable[[int], None] = lambda number: None

    def wait(self, event: object) -> None:
        self.on_wait(self.waits)
        super().wait(event)


def test_closing_while_another_thread_is_at_work(exported: Bundle) -> None:
    """It hears of it after its sub-batch, those who wait for their turn at once, and nothing is left."""
    device = Watched()
    session = session_on(device, exported, Schedule(2))
    at_work, go_on = threading.Event(), threading.Event()

    def on_wait(number: int) -> None:
        if number == 3:
            at_work.set()
            assert go_on.wait(60)

    device.on_wait = on_wait
    errors: list[str] = []

    def predict() -> None:
        try:
            session.predict(frames(1)[0])
        except BackendError as error:
            errors.append(str(error))

    first = threading.Thread(target=predict)
    first.start()
    assert at_work.wait(60)
    others = [threading.Thread(target=predict) for _ in range(2)]
    closing = threading.Thread(target=session.close)
    for thread in (*others, closing):
        thread.start()
    for thread in others:
        thread.join(60)
    assert errors == ["the session is closed"] * 2
    # The one at work still reads the memory that closing would free.
    assert closing.is_alive()
    assert device.leaked > 0
    go_on.set()
    for thread in (first, closing):
        thread.join(60)
        assert not thread.is_alive()
    assert errors == ["the session is closed"] * 3
    assert device.waits == 4
    session.close()
    assert device.leaked == 0


def test_closing_from_the_thread_at_work(exported: Bundle) -> None:
    """As a signal's handler may: it cannot wait for what it interrupts, which then ends everything itself."""
    device = Watched()
    session = session_on(device, exported, Schedule(2))
    device.on_wait = lambda number: session.close() if number == 3 else None
    with pytest.raises(BackendError, match="the session is closed"):
        session.predict(frames(1)[0])
    assert device.waits == 4
    assert device.leaked == 0


@pytest.mark.parametrize("call", ["refine", "predict_all"])
def test_closing_between_two_steps(exported: Bundle, call: str) -> None:
    device = HostDevice()
    session = session_on(device, exported, Schedule(2, 4))
    steps = session.refine(frames(1)[0]) if call == "refine" else session.predict_all(frames(4))
    next(steps)
    closing = threading.Thread(target=session.close)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
    # Nobody waits for the next step, and a frame that is uploaded ahead is no obstacle.
    assert device.leaked == 0
    with pytest.raises(BackendError, match="the session is closed"):
        next(steps)
    assert list(steps) == []


def test_abandoned_walks_leave_the_session_free(exported: Bundle, expected: Callable) -> None:
    device, schedule = HostDevice(), Schedule(2, 3)
    with session_on(device, exported, schedule) as session:
        for _ in range(3):
            walk = session.refine(frames(1)[0])
            next(walk)
            walk.close()
            results = session.predict_all(frames(3))
            np.testing.assert_array_equal(next(results), expected(schedule, 1)[0])
            # What is uploaded ahead is in the slot that the next call's second frame gets.
            results.close()
        early = session.predict(frames(1)[0], deadline_ms=0.001)
        assert early.phases_done == 3
        np.testing.assert_array_equal(list(session.predict_all(frames(4))), expected(schedule, 4))
    assert device.leaked == 0


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_session_goes_on_and_closes_after_ctrl_c(exported: Bundle, expected: Callable, number: int) -> None:
    device, schedule = Watched(), Schedule(2, 3)
    session = session_on(device, exported, schedule)

    def interrupted(wait: int) -> None:
        if wait == number:
            raise KeyboardInterrupt

    device.on_wait = interrupted
    with pytest.raises(KeyboardInterrupt):
        session.predict(frames(2)[1])
    device.on_wait = lambda number: None
    np.testing.assert_array_equal(session.predict(frames(1)[0]), expected(schedule, 1)[0])
    device.on_wait, device.waits = interrupted, 0
    with pytest.raises(KeyboardInterrupt):
        list(session.predict_all(frames(3)))
    device.on_wait = lambda number: None
    closing = threading.Thread(target=session.close, daemon=True)
    closing.start()
    closing.join(timeout=60)
    assert not closing.is_alive()
    assert device.leaked == 0
