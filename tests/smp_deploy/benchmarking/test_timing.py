"""How many frames are measured, and what a measurement leaves behind."""

import numpy as np
import pytest

from engines import Bundle, Lowering, Schedule, Session
from engines.errors import InputError
from smp_deploy.benchmarking.timing import Length, frame_latencies, frame_ms, rearrangement_ms


def test_iterations_and_duration_are_lower_bounds(exported: Bundle, frame: np.ndarray) -> None:
    seen: list[tuple[int, int]] = []
    with Session.open(exported, schedule=Schedule(2, 16, Lowering.DILATED)) as session:
        by_number = frame_latencies(session, [frame], Length(0, 0, 3), lambda done, total: seen.append((done, total)))
        by_time = frame_latencies(session, [frame], Length(0, 0.3, 1))
    assert len(by_number) == 3
    assert seen[-1] == (3, 3)
    assert sum(by_time) / 1000 <= 0.3 + max(by_time) / 1000
    assert sum(by_time[:-1]) / 1000 < 0.3


def test_a_frame_that_is_cut_short_leaves_the_session_usable(exported: Bundle, frame: np.ndarray) -> None:
    with Session.open(exported) as session:
        expected = session.predict(frame)
        # Of no time at all, only the first of 16 sub-batches is run; 16 times it is about the whole.
        assert frame_ms(session, frame, 0) > 0
        np.testing.assert_array_equal(session.predict(frame), expected)


def test_rearrangement_is_a_part_of_the_frame(exported: Bundle, frame: np.ndarray) -> None:
    with Session.open(exported) as session:
        whole = min(frame_latencies(session, [frame], Length(0, 0, 3)))
        assert 0 < rearrangement_ms(session) < whole


@pytest.mark.parametrize("arguments", [(-1, 0, 1), (0, -1, 1), (0, 0, 0)])
def test_a_length_that_is_none(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match="not negative, iterations at least 1"):
        Length(*arguments)
