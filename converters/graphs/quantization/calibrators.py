"""How large the activations of a layer may be before int8 cuts them off: min-max, percentile, entropy.

int8 is symmetric here, as TensorRT wants it: a range is one number, the magnitude that becomes 127. Everything is
read from a histogram of magnitudes. onnxruntime.quantization has the same methods; its entropy calibrator takes
minutes for one layer at the 2048 bins that the method needs, because it sums bins in Python.
"""

from __future__ import annotations

import enum

import numpy as np
from numpy.typing import NDArray

BINS = 2048
_LEVELS = 128
"""Magnitudes that int8 tells apart."""


class CalibrationMethod(enum.Enum):
    """How to choose the range of an activation."""

    MINMAX = "minmax"
    """The largest magnitude that was seen: nothing is cut off."""
    PERCENTILE = "percentile"
    """The magnitude that all but a few values stay under."""
    ENTROPY = "entropy"
    """The magnitude whose 128 levels lose the least information (Kullback-Leibler; Migacz, GTC 2017)."""


class Histogram:
    """Magnitudes of a layer's input, in :data:`BINS` equal bins from zero; it grows with what it sees."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.limit = 0.0
        """Where the last bin ends."""
        self.largest = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values of any shape. Those that are not finite make ``largest`` infinite."""
        magnitudes = np.abs(values).ravel()
        largest = float(magnitudes.max(initial=0.0))
        if not np.isfinite(largest):
            self.largest = float("inf")
            return
        self.largest = max(self.largest, largest)
        if self.limit == 0:
            self.limit = largest
        while self.limit < largest:
            # Two bins become one, so every count stays in the bin that holds its values.
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.limit *= 2
        if self.limit:
            self.counts += np.histogram(magnitudes, BINS, (0, self.limit))[0]
        else:
            self.counts[0] += magnitudes.size

    def range(self, method: CalibrationMethod, percentile: float) -> float:
        """The magnitude that becomes 127; zero for a layer that saw zeros only."""
        if method is CalibrationMethod.MINMAX or not self.limit:
            return self.largest
        bins = _percentile_bins(self.counts, percentile) if method is CalibrationMethod.PERCENTILE else 0
        bins = bins or _entropy_bins(self.counts)
        return min(self.limit * bins / BINS, self.largest)


def _percentile_bins(counts: NDArray[np.int64], percentile: float) -> int:
    """The fewest bins that hold this share of all values."""
    shares = np.cumsum(counts) / counts.sum()
    return int(np.searchsorted(shares, percentile / 100)) + 1


def _entropy_bins(histogram: NDArray[np.int64]) -> int:
    """How many bins to keep so that the kept ones, in 128 levels, are nearest to the whole distribution.

    Zeros are exact in int8 whatever the range. After a ReLU they are most values and would hide the others, so the
    first bin counts as much as the second, as in NVIDIA's calibrators.
    """
    counts: NDArray[np.float64] = np.asarray(histogram, np.float64)
    counts[0] = counts[1]
    used = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 0
    if used <= _LEVELS:
        return max(used, 1)
    candidates = range(_LEVELS, used + 1)
    divergences = [_divergence(counts, bins) for bins in candidates]
    return candidates[int(np.argmin(divergences))]


def _divergence(counts: NDArray[np.float64], bins: int) -> float:
    """Kullback-Leibler divergence of the distribution cut off after ``bins`` from its form in 128 levels."""
    reference = counts[:bins].copy()
    reference[-1] += counts[bins:].sum()
    kept = counts[:bins]
    held = kept > 0
    levels = np.arange(bins) * _LEVELS // bins
    sums = np.bincount(levels, kept, _LEVELS)
    filled = np.bincount(levels, held, _LEVELS)
    # A level's values are spread evenly over its bins that have any.
    candidate = np.where(held, (sums / np.maximum(filled, 1))[levels], 0.0)
    total = reference.sum()
    if not total or not candidate.sum():
        return float("inf")
    p, q = reference / total, candidate / candidate.sum()
    # What was cut off may fall into a bin that the candidate leaves empty.
    floor = 1e-12
    counted = p > 0
    return float((p[counted] * np.log(p[counted] / np.maximum(q[counted], floor))).sum())
