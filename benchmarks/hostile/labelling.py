"""Labels by every trunk of a bundle, so that no graph is spoilt unseen."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engines import Bundle, Precision, Schedule, Session
from engines.backends import backend_named

Use = tuple[Schedule, Precision]


def uses_of(bundle: Bundle) -> list[Use]:
    """A schedule of every trunk and precision: two phases at a time, so that a batch's second entry counts."""
    backend = backend_named("onnxruntime")
    return [
        (schedule, precision)
        for precision in (Precision.FP32,)
        for schedule in backend.schedules(bundle, precision)
        if schedule.sub_batch == min(2, 4**schedule.levels)
    ]


def labels_of(bundle: Bundle | Path, frame: np.ndarray, use: Use) -> np.ndarray:
    schedule, precision = use
    with Session.open(bundle, precision=precision, schedule=schedule) as session:
        return session.predict(frame)
