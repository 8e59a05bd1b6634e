"""Measuring the time of frames, in trtexec's terms."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.session import Session

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Length:
    """How long to measure; trtexec's defaults."""

    warm_up_ms: float = 200
    """At least this long, and at least one frame, is run before measuring."""
    duration_s: float = 3
    """Measure at least this long,"""
    iterations: int = 10
    """and at least so many frames."""

    def __post_init__(self) -> None:
        if self.warm_up_ms < 0 or self.duration_s < 0 or self.iterations < 1:
            raise InputError(f"warm-up and duration are not negative, iterations at least 1; received {self}")


def frame_latencies(
    session: Session,
    frames: Sequence[Frame],
    length: Length,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[float]:
    """Milliseconds of frame after frame, taken in turn, from the frame handed over to its predictions.

    ``on_progress`` is called with ``(frames done, frames in all)``; the latter is an estimate.
    """
    started, warmed = time.perf_counter(), 0
    while not warmed or time.perf_counter() - started < length.warm_up_ms / 1000:
        session.predict(frames[warmed % len(frames)])
        warmed += 1
    latencies_ms: list[float] = []
    begin = time.perf_counter()
    while len(latencies_ms) < length.iterations or time.perf_counter() - begin < length.duration_s:
        started = time.perf_counter()
        session.predict(frames[len(latencies_ms) % len(frames)])
        latencies_ms.append((time.perf_counter() - started) * 1000)
        likely = length.duration_s * 1000 / (sum(latencies_ms) / len(latencies_ms))
        on_progress(len(latencies_ms), max(length.iterations, round(likely), len(latencies_ms)))
    return latencies_ms


class _EnoughError(Exception):
    """Ends a frame whose time is known well enough."""


def frame_ms(session: Session, frame: Frame, seconds: float) -> float:
    """Milliseconds of a frame: the median of what can be measured in so many seconds.

    A frame that takes longer is ended after the sub-batch then at work, and its time extrapolated: all phases are the
    same work, so it is that of the phases done, times phases / phases done.
    """
    times: list[float] = []
    begin = time.perf_counter()
    while not times or time.perf_counter() - begin < seconds:
        times.append(_one_frame_ms(session, frame, seconds))
    return median(times)


def _one_frame_ms(session: Session, frame: Frame, at_most_s: float) -> float:
    started, seen = time.perf_counter(), (0.0, 1.0)

    def watch(done: int, total: int) -> None:
        nonlocal seen
        elapsed = time.perf_counter() - started
        seen = elapsed, total / done
        if elapsed >= at_most_s and done < total:
            raise _EnoughError

    try:
        session.predict(frame, on_progress=watch)
    except _EnoughError:
        elapsed, times = seen
        return elapsed * times * 1000
    return (time.perf_counter() - started) * 1000


def rearrangement_ms(session: Session, repeats: int = 5) -> float:
    """Milliseconds of a frame that go into cutting windows and putting predictions at their pixels.

    Both are done here on their own, for all phases, on arrays of the sizes that the session's have: least of
    ``repeats``.
    """
    grid = session.grid
    planes: Any = np.zeros((3, *grid.planes_size), np.float32)
    channels = () if session.manifest.outputs.value == "labels" else (len(session.manifest.classes),)
    dtype = np.float32 if channels else np.uint8
    merged = np.zeros((*channels, *grid.padded_size), dtype)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for phases in grid.sub_batches(session.schedule.sub_batch):
            grid.cut(planes, phases)
            grid.place(np.zeros((len(phases), *channels, *grid.phase_size), dtype), phases, merged)
        np.ascontiguousarray(grid.unpadded(merged))
        times.append((time.perf_counter() - started) * 1000)
    return min(times)
