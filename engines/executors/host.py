"""Executing on runners whose inputs and outputs are numpy arrays: ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import BackendError, OutOfMemory
from engines.executors.base import Executor, closed_error
from engines.executors.runner import Runner
from engines.schedules.phases import Phase, PhaseGrid


class RunnerExecutor(Executor):
    """Prepares a frame and computes its phases with two runners, which it opens and closes.

    It has one slot, so it holds the planes of one frame, and nothing is under way between two calls.
    """

    def __init__(self, prepare: Runner, trunk: Runner, grid: PhaseGrid) -> None:
        self.grid = grid
        self._planes: NDArray[Any] | None = None
        self._predictions: NDArray[Any] | None = None
        self._closed = False
        with ExitStack() as opening:
            self._prepare = opening.enter_context(prepare)
            self._trunk = opening.enter_context(trunk)
            # Both are open: from here on close() ends them.
            self._runners = opening.pop_all()

    def load(self, image: NDArray[np.uint8], slot: int) -> None:
        self._check_open()
        self.unload(slot)
        self._planes = self._prepare.infer({"frame": np.ascontiguousarray(image)})["planes"]

    def submit(self, frame_slot: int, phases: list[Phase], slot: int) -> None:
        self._check_open()
        if self._planes is None:
            raise BackendError(f"no frame was loaded into slot {frame_slot}")
        self._predictions = None
        try:
            feed = self.grid.feed(self._planes, phases)
        except MemoryError as error:
            raise OutOfMemory(f"the memory does not suffice for the windows of {len(phases)} phases") from error
        (self._predictions,) = self._trunk.infer(feed).values()

    def collect(self, slot: int) -> NDArray[Any]:
        self._check_open()
        predictions, self._predictions = self._predictions, None
        if predictions is None:
            raise BackendError(f"nothing was submitted in slot {slot}, or it is collected already")
        return predictions

    def unload(self, slot: int) -> None:
        # Before the next frame is prepared: its planes must not lie beside these.
        self._planes = self._predictions = None

    def memory(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        self._closed = True
        self.unload(0)
        self._runners.close()

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()
