"""Peaks of memory, measured in processes of their own, and the planner's prediction of one."""

from __future__ import annotations

import pytest

from engines import Bundle, Schedule
from engines.backends.memory import MIB
from engines.errors import BackendError
from engines.planning.planner import plan
from smp_deploy.benchmarking.peak_memory import (
    ENOUGH_SUB_BATCHES,
    current_bytes,
    current_peak_bytes,
    peak_of,
    session_peak,
)


def test_the_peak_of_a_known_allocation() -> None:
    # The bytes are freed before the process is asked: a peak remembers them.
    peak = peak_of("builtins:exec", f"len(b'x' * {64 * MIB})")
    # An interpreter has some pages of its own free, which they may take.
    assert 63 * MIB <= peak.work_bytes < 80 * MIB
    assert peak.returned is None
    assert 0 < current_bytes() <= current_peak_bytes()


def test_what_the_work_returns_and_how_it_fails() -> None:
    assert peak_of("operator:add", 2, 3).returned == 5
    with pytest.raises(BackendError, match="operator:truediv failed with exit code 1: ZeroDivisionError"):
        peak_of("operator:truediv", 1, 0)
    with pytest.raises(BackendError, match=r"work is package\.module:function; received 'operator'"):
        peak_of("operator")
    with pytest.raises(BackendError, match=r"time:sleep took more than 1 s; its memory was not measured"):
        peak_of("time:sleep", 60, timeout_s=1)


def test_a_predicted_peak_is_the_measured_one(exported: Bundle) -> None:
    # The network is tiny: nearly all of it is what a session takes anyway, and that varies by some MiB.
    schedule = Schedule(2, 16)
    predicted = {c.schedule: c.peak_bytes for c in plan(exported).candidates}[schedule]
    measured = session_peak(exported.path, schedule)
    # One sub-batch is a frame here: the frames go on until there were enough of them.
    assert measured.returned == ENOUGH_SUB_BATCHES
    assert abs(predicted - measured.work_bytes) <= 12 * MIB
