"""Schedules for a deadline: from times that are written down, so that nothing depends on this machine's."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import Bundle, Lowering, Schedule, Session, choose_schedule
from engines.bundle.manifest import TuningMeasurement
from engines.errors import InputError
from engines.planning.deadlines import best_by, checked_deadline
from engines.planning.planner import plan
from tests.engines.planning.test_tuning import tuning

ALL, FOUR, ONE = Schedule(2, 16), Schedule(2, 4, Lowering.DILATED), Schedule(2, 1)
TIMES = {ALL: [90.0, 100.0, 80.0], FOUR: [120.0], ONE: [160.0, 150.0]}
"""Of frames of 16 phases: 100 ms to the first prediction in one sub-batch, 30 ms in four, 10 ms in sixteen."""


@pytest.mark.parametrize(
    ("deadline_ms", "best", "share"),
    [
        (1000, ALL, 1),
        (100, ALL, 1),
        (99, FOUR, 3 / 4),
        (60, FOUR, 1 / 2),
        (59, ONE, 5 / 16),
        (40, FOUR, 1 / 4),  # as much as one at a time gives, and the rest comes sooner
        (29, ONE, 2 / 16),
        (9, ONE, 0),  # none is in time: the first to come
    ],
)
def test_the_most_phases_by_the_deadline(exported: Bundle, deadline_ms: float, best: Schedule, share: float) -> None:
    found = best_by(deadline_ms, TIMES, exported.manifest)
    assert found is not None
    assert (found.schedule, found.share(deadline_ms)) == (best, share)


def test_without_times_there_is_none(exported: Bundle) -> None:
    assert best_by(10, {}, exported.manifest) is None


def tuned(bundle: Path, **changes: Any) -> Bundle:
    """With the times above; the fastest, in which sessions run without a deadline, takes all phases at once."""
    record = tuning(**changes)
    for schedule, frame_ms in TIMES.items():
        record.measurements.append(TuningMeasurement(schedule=schedule, frame_ms=frame_ms))
    del record.measurements[:2]
    return Bundle.open(bundle).with_tuning(record)


def test_the_schedule_is_chosen_for_the_deadline(bundle: Path) -> None:
    held = tuned(bundle)
    assert choose_schedule(held).schedule == ALL
    choice = choose_schedule(held, deadline_ms=99)
    assert (choice.schedule, choice.tuned) == (FOUR, True)
    assert choice.reason == (
        "for the deadline, as measured on this device: the first prediction after 30 ms of 99, all after 120 ms"
    )
    late = choose_schedule(held, deadline_ms=2.5)
    assert late.schedule == ONE
    assert late.reason.endswith("after 10 ms of 2.5, all after 160 ms; no schedule that was measured is in time")
    # What is named is taken.
    assert choose_schedule(held, deadline_ms=5, sub_batch=16).schedule == ALL


def test_within_a_budget(bundle: Path) -> None:
    held = tuned(bundle)
    planned = plan(held)
    needed = {candidate.schedule: candidate for candidate in planned.candidates}
    smallest = planned.needed_bytes(needed[ONE])
    assert smallest < planned.needed_bytes(needed[ALL])
    choice = choose_schedule(held, deadline_ms=1000, memory=smallest)
    assert choice.schedule == ONE
    assert choice.reason.startswith("for the deadline, as measured on this device")


@pytest.mark.parametrize("memory", [None, "1GiB"])
def test_without_a_tuning_of_this_device_the_phases_come_one_by_one(bundle: Path, memory: str | None) -> None:
    held = tuned(bundle, device="a GPU far away")
    choice = choose_schedule(held, deadline_ms=1000, memory=memory)
    assert (choice.schedule, choice.tuned) == (ONE, False)
    assert choice.reason == (
        "the fewest phases at a time, for the deadline; how long they take was not measured here: tune does"
    )


@pytest.mark.parametrize(
    "deadline", [0, -5, math.nan, "5", b"5", [5], None, 5j, 10**400, np.array([5.0]), np.array("5"), -math.inf]
)
def test_a_deadline_is_a_positive_number(exported: Bundle, deadline: object) -> None:
    with pytest.raises(InputError, match="a deadline is a positive number of milliseconds; received"):
        checked_deadline(deadline)
    if deadline is not None:
        with pytest.raises(InputError, match="positive number of milliseconds"):
            choose_schedule(exported, deadline_ms=deadline)  # type: ignore[arg-type]


@pytest.mark.parametrize("deadline", [1e19, 10**300, np.float32(3e38), math.inf])
def test_a_long_deadline_leaves_nothing_out(exported: Bundle, frame: np.ndarray, deadline: float) -> None:
    with Session.open(exported, schedule=ALL) as session:
        found = session.predict(frame, deadline_ms=deadline)
    assert (found.complete, found.late_ms) == (True, 0)


def test_a_deadline_that_was_missed_says_by_how_much(exported: Bundle, frame: np.ndarray) -> None:
    """Nothing is done in a nanosecond, and what is late is what the call took but for that."""
    with Session.open(exported, schedule=ALL) as session:
        begun = time.monotonic()
        found = session.predict(frame, deadline_ms=1e-6, on_progress=lambda done, total: time.sleep(0.05))
        took_ms = 1000 * (time.monotonic() - begun)
    assert 50 <= found.late_ms <= took_ms
    assert found.complete
