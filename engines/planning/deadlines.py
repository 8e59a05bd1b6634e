"""Which schedule of a bundle gives the most by a deadline, from measured times."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engines.bundle.manifest import Manifest
from engines.errors import InputError
from engines.schedules.schedule import Schedule


@dataclass(frozen=True)
class Expected:
    """What a schedule gives by a deadline, as its slowest measured frame says."""

    schedule: Schedule
    first_ms: float
    """From the call to the first complete prediction: one sub-batch."""
    frame_ms: float
    """To the last one."""
    sub_batches: int
    """Of a frame."""

    def share(self, deadline_ms: float) -> float:
        """Which part of the phases is computed by then."""
        return min(int(deadline_ms / self.first_ms), self.sub_batches) / self.sub_batches


def checked_deadline(deadline_ms: object) -> float:
    """The deadline as a float. Raises :class:`InputError` for anything but a positive number of milliseconds."""
    try:
        # Neither a text nor an array is meant, whatever float makes of them; a number of numpy is.
        number = float(deadline_ms) if isinstance(deadline_ms, numbers.Real) else 0.0
    except OverflowError:
        number = 0.0
    if not number > 0:
        raise InputError(f"a deadline is a positive number of milliseconds; received {deadline_ms!r}")
    return number


def best_by(deadline_ms: float, measured: Mapping[Schedule, Sequence[float]], manifest: Manifest) -> Expected | None:
    """Of the schedules with measured times of a frame, in ms, the one that gives the most by the deadline.

    A schedule whose first prediction comes in time is better than one whose does not; of those in time the one that
    computes the most phases, then the fastest; of those too late the one whose first prediction comes first. ``None``
    where nothing was measured. The slowest time counts: a deadline is kept always, or it is none.
    """
    expected = [_expected(schedule, max(frame_ms), manifest) for schedule, frame_ms in measured.items()]
    if not expected:
        return None
    in_time = [held for held in expected if held.first_ms <= deadline_ms]
    if not in_time:
        return min(expected, key=lambda held: held.first_ms)
    return max(in_time, key=lambda held: (held.share(deadline_ms), -held.frame_ms))


def _expected(schedule: Schedule, frame_ms: float, manifest: Manifest) -> Expected:
    sub_batches = len(manifest.grid(manifest.trunk_of(schedule)).sub_batches(schedule.sub_batch))
    return Expected(schedule, frame_ms / sub_batches, frame_ms, sub_batches)
