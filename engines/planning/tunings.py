"""Tunings: which schedule was measured to be the fastest, and whether it was on a machine like this one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engines.backends.base import Backend
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import TuningRecord
from engines.schedules.schedule import Precision, Schedule


def tunings_of(bundle: Bundle, backend: Backend, precision: Precision) -> list[TuningRecord]:
    """Those of a backend and precision, of every device and runtime."""
    return [held for held in bundle.tunings if (held.backend, held.precision) == (backend.name, precision)]


def here(backend: Backend, device: str | None) -> tuple[str, str]:
    """The device and the runtime that a tuning made now would hold for. Raises :class:`MissingDependency`."""
    return backend.device_title(backend.device(device)), backend.runtime()


def measured_frames(
    bundle: Bundle, backend: Backend, precision: Precision, device: str | None = None
) -> dict[Schedule, list[float]]:
    """How long frames took in ms, by schedule, where the bundle was tuned on this device; else nothing."""
    near = tunings_of(bundle, backend, precision)
    on = here(backend, device) if near else None
    return {
        entry.schedule: entry.frame_ms
        for held in near
        if (held.device, held.runtime) == on
        for entry in held.measurements
    }


def measured_seconds(
    bundle: Bundle, backend: Backend, precision: Precision, device: str | None = None
) -> Callable[[Schedule], float | None]:
    """How long a frame took in a schedule, in seconds, where the bundle was tuned on this device; else ``None``."""
    measured = measured_frames(bundle, backend, precision, device)
    return {schedule: float(np.median(frame_ms)) / 1000 for schedule, frame_ms in measured.items()}.get
