"""Summaries of hand-made latencies."""

import pytest

from engines.errors import InputError
from smp_deploy.benchmarking.statistics import spread, summary_of


def test_a_summary_of_known_values() -> None:
    summary = summary_of([4, 1, 3, 2, 10], percentiles=(0, 75, 99.5, 100))
    assert (summary.min, summary.max, summary.mean, summary.median) == (1, 10, 4, 3)
    # The sorted values stand at 0, 25, 50, 75 and 100 per cent, and between them it is interpolated linearly.
    assert summary.percentiles == {"0": 1, "75": 4, "99.5": pytest.approx(9.88), "100": 10}


def test_a_summary_of_an_even_number_and_of_one_value() -> None:
    assert summary_of([1, 4, 2, 9]).median == 3
    one = summary_of([7.0])
    assert (one.min, one.max, one.mean, one.median) == (7, 7, 7, 7)
    assert one.percentiles == {"90": 7, "95": 7, "99": 7}


def test_spread_is_the_range_as_a_share_of_the_median() -> None:
    assert spread([95, 100, 105]) == pytest.approx(0.1)
    assert spread([7]) == 0


def test_what_has_no_summary() -> None:
    with pytest.raises(InputError, match="of no latencies"):
        summary_of([])
    with pytest.raises(InputError, match="between 0 and 100; received 101"):
        summary_of([1], percentiles=(101,))
