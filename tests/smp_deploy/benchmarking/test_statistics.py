"""Percentiles are numpy's; summaries of hand-made latencies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import InputError
from smp_deploy.benchmarking.statistics import percentile, spread, summary_of

times = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=50)


@given(values=times, share=st.floats(0, 100))
def test_percentiles_are_those_of_numpy(values: list[float], share: float) -> None:
    assert percentile(values, share) == pytest.approx(np.percentile(values, share), rel=1e-9, abs=1e-9)


def test_a_summary_of_known_values() -> None:
    summary = summary_of([4, 1, 3, 2, 10], percentiles=(75, 99.5))
    assert (summary.min, summary.max, summary.mean, summary.median) == (1, 10, 4, 3)
    assert summary.percentiles == {"75": 4, "99.5": pytest.approx(9.88)}


def test_spread_is_the_range_as_a_share_of_the_median() -> None:
    assert spread([95, 100, 105]) == pytest.approx(0.1)
    assert spread([7]) == 0


def test_what_has_no_percentile() -> None:
    with pytest.raises(InputError, match="of no values"):
        percentile([], 50)
    with pytest.raises(InputError, match="between 0 and 100; received 101"):
        percentile([1], 101)
