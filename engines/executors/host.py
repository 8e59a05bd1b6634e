"""Executing on runners whose inputs and outputs are numpy arrays: ONNX Runtime."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backends.base import Runner
from engines.errors import OutOfMemory
from engines.executors.base import Executor, LoadedFrame, PendingPhases, closed_error
from engines.schedules.phases import Phase, PhaseGrid


class RunnerExecutor(Executor):
    """Prepares a frame and computes its phases with two runners, which it opens and closes.

    Several threads take turns, run by run. Nothing is under way between two calls.
    """

    def __init__(self, prepare: Runner, trunk: Runner, grid: PhaseGrid) -> None:
        self.grid = grid
        self._lock = threading.Lock()
        self._closed = False
        with ExitStack() as opening:
            self._prepare = opening.enter_context(prepare)
            self._trunk = opening.enter_context(trunk)
            # Both are open: from here on close() ends them.
            self._runners = opening.pop_all()

    def load(self, image: NDArray[np.uint8]) -> LoadedFrame:
        planes = self._infer(self._prepare, {"frame": np.ascontiguousarray(image)})["planes"]
        return _HostFrame(self, planes)

    def predictions(self, planes: NDArray[Any], phases: list[Phase]) -> NDArray[Any]:
        """Of one sub-batch of the frame with these planes."""
        try:
            feed = self.grid.feed(planes, phases)
        except MemoryError as error:
            raise OutOfMemory(f"the memory does not suffice for the windows of {len(phases)} phases") from error
        (predictions,) = self._infer(self._trunk, feed).values()
        return predictions

    def memory(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._runners.close()

    def _infer(self, runner: Runner, feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with self._lock:
            if self._closed:
                raise closed_error()
            return runner.infer(feed)


class _HostFrame(LoadedFrame):
    def __init__(self, executor: RunnerExecutor, planes: NDArray[Any]) -> None:
        self._executor = executor
        self._planes: NDArray[Any] | None = planes

    def submit(self, phases: list[Phase]) -> PendingPhases:
        if self._planes is None:
            raise closed_error()
        return _Done(self._executor.predictions(self._planes, phases))

    def close(self) -> None:
        self._planes = None


class _Done(PendingPhases):
    def __init__(self, predictions: NDArray[Any]) -> None:
        self._predictions = predictions

    def collect(self) -> NDArray[Any]:
        return self._predictions
