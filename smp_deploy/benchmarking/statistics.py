"""One definition of every figure that is made of several measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from engines.errors import InputError


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` per cent of the values lie, interpolated linearly between neighbours.

    The sorted values stand at 0, 1, ..., n - 1, and the percentile at ``share / 100 * (n - 1)``: numpy's default.
    Raises :class:`InputError` for no values, and for a share outside [0, 100].
    """
    if not values:
        raise InputError("a percentile of no values was asked for")
    if not 0 <= share <= 100:
        raise InputError(f"a percentile lies between 0 and 100; received {share:g}")
    ordered = sorted(values)
    place = share / 100 * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """The 50th percentile."""
    return percentile(values, 50)


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


def summary_of(values_ms: Sequence[float], percentiles: Sequence[float] = (90, 95, 99)) -> Summary:
    """Summarise latencies. Raises :class:`InputError` for none of them, and for a percentile outside [0, 100]."""
    return Summary(
        min=percentile(values_ms, 0),
        max=percentile(values_ms, 100),
        mean=math.fsum(values_ms) / len(values_ms),
        median=median(values_ms),
        percentiles={f"{share:g}": percentile(values_ms, share) for share in percentiles},
    )
