"""Measuring sessions: latencies, what they come to, and the fastest schedule."""

from smp_deploy.benchmarking.statistics import Summary, median, percentile, spread, summary_of
from smp_deploy.benchmarking.timing import Length, frame_latencies, frame_ms, rearrangement_ms
from smp_deploy.benchmarking.tuner import TuningConfig, candidates, missing_trunks, tune

__all__ = [
    "Length",
    "Summary",
    "TuningConfig",
    "candidates",
    "frame_latencies",
    "frame_ms",
    "median",
    "missing_trunks",
    "percentile",
    "rearrangement_ms",
    "spread",
    "summary_of",
    "tune",
]
