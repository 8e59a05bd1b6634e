"""Anytime inference: filling from the nearest phase, refinement in a dispersed order, deadlines."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import Bundle, Schedule, Session
from engines.errors import InputError, LayoutError
from engines.schedules.anytime import NearestFill
from engines.schedules.phases import dispersed

windows = st.tuples(st.integers(1, 5), st.integers(1, 5))


def nearest_by_hand(full: np.ndarray, window: tuple[int, int], computed: list[tuple[int, int]]) -> np.ndarray:
    """Distance of every pixel's nearest computed pixel, by looking at all of them."""
    h, w = window
    known = [(y, x) for y, x in np.ndindex(full.shape) if (y % h, x % w) in computed]
    distances = np.empty(full.shape)
    for y, x in np.ndindex(full.shape):
        distances[y, x] = min((y - a) ** 2 + (x - b) ** 2 for a, b in known)
    return distances


@given(window=windows, cells=st.tuples(st.integers(1, 3), st.integers(1, 3)), data=st.data())
def test_missing_pixels_come_from_a_nearest_one(window, cells, data) -> None:
    size = (window[0] * cells[0], window[1] * cells[1])
    phases = list(itertools.product(range(window[0]), range(window[1])))
    computed = data.draw(st.lists(st.sampled_from(phases), min_size=1, unique=True))
    full = np.arange(size[0] * size[1]).reshape(size)
    fill = NearestFill(window)
    fill.add(computed)
    mask = fill.computed(size)
    filled = fill.filled(np.where(mask, full, -1))
    assert (filled >= 0).all()
    np.testing.assert_array_equal(filled[mask], full[mask])
    sources = np.stack(np.divmod(filled, size[1]))
    distances = ((sources - np.indices(size)) ** 2).sum(0)
    # Beyond the edge of the frame there is nothing: only inner pixels have their neighbours all around.
    inner = (slice(window[0], size[0] - window[0]), slice(window[1], size[1] - window[1]))
    np.testing.assert_array_equal(distances[inner], nearest_by_hand(full, window, computed)[inner])


def test_nothing_to_fill_from() -> None:
    with pytest.raises(LayoutError, match="nothing is computed"):
        NearestFill((2, 2)).filled(np.zeros((4, 4)))


@given(window=windows)
def test_a_dispersed_order_has_every_phase_once(window) -> None:
    order = dispersed(window)
    assert sorted(order) == list(itertools.product(range(window[0]), range(window[1])))
    assert order[0] == (0, 0)


def test_a_dispersed_order_by_hand() -> None:
    assert dispersed((2, 2)) == [(0, 0), (1, 1), (0, 1), (1, 0)]


def test_at_every_power_of_two_phases_are_as_far_apart_as_a_grid_of_as_many_can_be() -> None:
    for count, least in ((2, 8), (4, 4), (8, 2), (16, 1)):
        apart = min(
            min(abs(a[0] - b[0]), 4 - abs(a[0] - b[0])) ** 2 + min(abs(a[1] - b[1]), 4 - abs(a[1] - b[1])) ** 2
            for a, b in itertools.combinations(dispersed((4, 4))[:count], 2)
        )
        assert apart == least


@pytest.mark.parametrize("schedule", [Schedule(2, 1), Schedule(2, 3), Schedule(3, 1), Schedule(3, 5)], ids=str)
def test_refinement_ends_at_the_prediction(exported: Bundle, frame: np.ndarray, schedule: Schedule) -> None:
    with Session.open(exported, schedule=schedule) as session:
        expected = session.predict(frame)
        steps = list(session.refine(frame))
    done = [step.phases_done for step in steps]
    assert done == list(np.cumsum([len(group) for group in session.grid.sub_batches(schedule.sub_batch)]))
    assert [step.complete for step in steps] == [False] * (len(steps) - 1) + [True]
    np.testing.assert_array_equal(steps[-1].prediction, expected)
    for step in steps:
        assert step.computed.mean() == pytest.approx(step.phases_done / step.phases)
        np.testing.assert_array_equal(step.prediction[step.computed], expected[step.computed])


def test_a_deadline_gives_what_is_there(exported: Bundle, frame: np.ndarray) -> None:
    with Session.open(exported) as session:
        expected = session.predict(frame)
        early = session.predict(frame, deadline_ms=1e-6)
        late = session.predict(frame, deadline_ms=1e9)
    assert (early.phases_done, early.phases) == (1, 16)
    np.testing.assert_array_equal(early.prediction[::4, ::4], expected[::4, ::4])
    np.testing.assert_array_equal(np.argwhere(early.computed)[:2], [[0, 0], [0, 4]])
    assert late.complete
    np.testing.assert_array_equal(late.prediction, expected)


def test_no_sub_batch_is_begun_that_would_end_too_late(exported: Bundle, frame: np.ndarray) -> None:
    """Each phase is made to take a known time, so that the count follows from the deadline alone."""
    with Session.open(exported) as session:
        result = session.predict(frame, deadline_ms=1000, on_progress=lambda done, total: time.sleep(0.3))
    # The slowest so far took 0.3 s and more: after the second one 0.6 s are gone, a third would end by 0.9 s.
    assert 1 <= result.phases_done <= 3


@pytest.mark.parametrize("deadline", [0, -5, float("nan")])
def test_a_deadline_is_positive(exported: Bundle, frame: np.ndarray, deadline: float) -> None:
    with Session.open(exported) as session, pytest.raises(InputError, match="positive number of milliseconds"):
        session.predict(frame, deadline_ms=deadline)
