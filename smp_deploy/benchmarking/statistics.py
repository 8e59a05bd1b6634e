"""One definition of every figure that is made of several measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from engines.errors import InputError


def spread(values: Sequence[float]) -> float:
    """The range of the values as a share of their median: 0.1 for 95 to 105."""
    return (max(values) - min(values)) / median(values)


@dataclass(frozen=True)
class Summary:
    """What a series of latencies comes to, in milliseconds."""

    min: float
    max: float
    mean: float
    median: float
    percentiles: dict[str, float]
    """By their names, ``"99"``."""


def check_percentiles(percentiles: Sequence[float]) -> None:
    """Raises :class:`InputError` for one outside [0, 100]."""
    for share in percentiles:
        if not 0 <= share <= 100:
            raise InputError(f"a percentile lies between 0 and 100; received {share:g}")


def summary_of(values_ms: Sequence[float], percentiles: Sequence[float] = (90, 95, 99)) -> Summary:
    """Summarise latencies.

    Percentiles are numpy's: interpolated linearly between neighbours. Raises :class:`InputError` for no latencies, and
    for a percentile outside [0, 100].
    """
    if not values_ms:
        raise InputError("a summary of no latencies was asked for")
    check_percentiles(percentiles)
    return Summary(
        min=min(values_ms),
        max=max(values_ms),
        mean=fmean(values_ms),
        median=median(values_ms),
        percentiles={f"{share:g}": float(np.percentile(values_ms, share)) for share in percentiles},
    )
