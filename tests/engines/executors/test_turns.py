"""Turns: in the order of arrival, refused where waiting could be for ever, ended by closing."""

from __future__ import annotations

import threading
import time

import pytest

from engines.errors import BackendError, InputError
from engines.executors.turns import Turn, Turns


class Ended:
    """Counts how often the end was called."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def until_waiting(turns: Turns, count: int) -> None:
    """Wait until so many turns are in the queue, the one that has it included."""
    limit = time.monotonic() + 60
    while len(turns._queue) != count:
        assert time.monotonic() < limit
        time.sleep(0.001)


def test_those_who_wait_come_in_order() -> None:
    turns, order = Turns(Ended()), []

    def work(number: int) -> None:
        turn = turns.turn("predict")
        try:
            turn.take()
            order.append(number)
        finally:
            turn.leave()

    first = turns.turn("predict")
    first.take()
    threads = []
    for number in range(5):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
        until_waiting(turns, number + 2)
    assert order == []
    first.leave()
    first.leave()
    for thread in threads:
        thread.join(60)
    assert order == [0, 1, 2, 3, 4]


def test_who_waits_is_refused_when_the_next_one_stays() -> None:
    """A generator is the next in turn: it holds the session for as long as its caller likes."""
    turns = Turns(Ended())
    first = turns.turn("predict")
    first.take()
    taken, said = threading.Event(), []

    def stay() -> None:
        turn = turns.turn("refine", unfinished=True)
        turn.take()
        with turn.outside():
            taken.set()

    def work() -> None:
        turn = turns.turn("predict")
        try:
            turn.take()
        except InputError as error:
            said.append(str(error))
        finally:
            turn.leave()

    threads = [threading.Thread(target=stay), threading.Thread(target=work)]
    for number, thread in enumerate(threads):
        thread.start()
        until_waiting(turns, number + 2)
    first.leave()
    for thread in threads:
        thread.join(60)
    assert taken.is_set()
    assert said == [
        "refine is unfinished on this session: take all that it gives, or close() it, before predict is called"
    ]


@pytest.mark.parametrize("interrupted", ["waits", "is at work", "is outside"])
def test_closing_after_an_interruption(interrupted: str) -> None:
    ended = Ended()
    turns = Turns(ended)
    other, turn = turns.turn("refine"), turns.turn("predict")
    if interrupted == "waits":
        # As Ctrl-C would leave it: in the queue, and on its way out.
        turns._queue.extend([other, turn])
        turn.leave()
        other.leave()
    else:
        turn.take()
        if interrupted == "is outside":
            turns.pause(turn)
        turn.leave()
    following = turns.turn("predict")
    following.take()
    following.leave()
    turns.close()
    assert ended.times == 1
    with pytest.raises(BackendError, match="the session is closed"):
        turns.turn("predict").take()


def test_the_end_comes_when_nobody_is_at_work() -> None:
    ended = Ended()
    turns = Turns(ended)
    turn = turns.turn("predict")
    turn.take()
    closing = threading.Thread(target=turns.close)
    closing.start()
    limit = time.monotonic() + 60
    while not turns._closed:
        assert time.monotonic() < limit
    assert ended.times == 0

    def step(turn: Turn) -> None:
        with turn.outside():
            closing.join(60)
            assert ended.times >= 1

    with pytest.raises(BackendError, match="the session is closed"):
        step(turn)
    turn.leave()


def test_a_turn_may_end_in_the_middle_of_another_call() -> None:
    """As that of a generator that is collected as garbage, at any moment, in the thread that looks at the queue."""
    turns = Turns(Ended())
    stays = turns.turn("refine", unfinished=True)
    stays.take()
    turns.pause(stays)
    with turns._condition:
        stays.leave()
    turns.turn("predict").take()
