"""What sessions on the device in host memory are compared with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from engines import Bundle, Schedule, Session
from tests.engines.executors.host_engine import frames


@pytest.fixture(scope="session")
def expected(exported: Bundle) -> Callable[[Schedule, int], list[np.ndarray]]:
    """Gives the labels of so many of the frames on ONNX Runtime, at a schedule."""
    known: dict[Schedule, list[np.ndarray]] = {}

    def labels(schedule: Schedule, count: int) -> list[np.ndarray]:
        if len(known.get(schedule, ())) < count:
            with Session.open(exported, schedule=schedule) as session:
                known[schedule] = [session.predict(frame) for frame in frames(count)]
        return known[schedule][:count]

    return labels
