"""Histograms against numpy's, and the three methods on distributions whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from converters.graphs.quantization import CalibrationMethod, Histogram

MINMAX, PERCENTILE, ENTROPY = CalibrationMethod.MINMAX, CalibrationMethod.PERCENTILE, CalibrationMethod.ENTROPY


def histogram(*parts: np.ndarray) -> Histogram:
    held = Histogram()
    for part in parts:
        held.add(part.astype(np.float32))
    return held


def test_a_histogram_that_grows_counts_as_one_of_the_final_range() -> None:
    draw = np.random.default_rng(0)
    parts = [draw.normal(size=(3, 5, 7)), draw.normal(size=1000) * 9, draw.normal(size=500) * 0.1]
    held = histogram(*parts)
    values = np.abs(np.concatenate([part.ravel() for part in parts]).astype(np.float32))
    expected, _ = np.histogram(values, len(held.counts), (0, held.limit))
    # Values at the edge of a bin may fall to either side of it.
    assert np.abs(np.cumsum(held.counts) - np.cumsum(expected)).max() <= 1
    assert held.counts.sum() == values.size
    assert held.largest == values.max()


def test_minmax_is_the_largest_magnitude() -> None:
    assert histogram(np.array([1.0, -3.5, 2.0])).range(MINMAX, 50) == 3.5


def test_percentile_is_numpys() -> None:
    values = np.random.default_rng(1).exponential(size=100_000)
    held = histogram(values)
    for percentile in (50, 99, 99.9):
        bin_width = held.limit / len(held.counts)
        assert held.range(PERCENTILE, percentile) == pytest.approx(np.percentile(values, percentile), abs=2 * bin_width)
    assert held.range(PERCENTILE, 100) == pytest.approx(values.max(), rel=1e-6)


def test_entropy_keeps_an_even_distribution_whole() -> None:
    held = histogram(np.linspace(0, 1, 1_000_001))
    assert held.range(ENTROPY, 0) == pytest.approx(1, abs=0.01)


def test_entropy_cuts_rare_outliers_off_and_zeros_do_not_matter() -> None:
    values = np.abs(np.random.default_rng(2).normal(size=200_000))
    with_outlier = np.append(values, 60.0)
    found = histogram(with_outlier).range(ENTROPY, 0)
    # The values end at about 4.6; the one at 60 must not make the step 13 times larger.
    assert 2.5 < found < 12
    after_relu = np.concatenate([with_outlier, np.zeros(1_000_000)])
    assert histogram(after_relu).range(ENTROPY, 0) == found


@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_zeros_have_no_range_and_infinity_is_told(method: CalibrationMethod) -> None:
    assert histogram(np.zeros(10)).range(method, 99) == 0
    held = histogram(np.zeros(10), np.array([1.0, 2.0]), np.array([np.inf, 1.0]))
    assert held.largest == float("inf")
    assert histogram(np.array([np.nan])).largest == float("inf")
