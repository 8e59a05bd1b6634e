"""Executing on runners whose inputs and outputs are numpy arrays: ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import BackendError, OutOfMemory
from engines.executors.base import Executor, check_predictions, closed_error, nothing_merged
from engines.executors.runner import Runner
from engines.schedules.phases import Phase, PhaseGrid


class RunnerExecutor(Executor):
    """Prepares a frame and computes its phases with two runners, which it opens and closes.

    It has one slot, so it holds the planes of one frame, and nothing is under way between two calls.
    """

    def __init__(self, prepare: Runner, trunk: Runner, grid: PhaseGrid) -> None:
        self.grid = grid
        self._planes: NDArray[Any] | None = None
        self._merged: NDArray[Any] | None = None
        """Of the frame that is loaded, from its first sub-batch on. Never used for another frame."""
        self._submitted = False
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
        self._submitted = False
        try:
            feed = self.grid.feed(self._planes, phases)
        except MemoryError as error:
            raise OutOfMemory(f"the memory does not suffice for the windows of {len(phases)} phases") from error
        (predictions,) = self._trunk.infer(feed).values()
        # Before the predictions are merged: the windows need not lie beside the merged result.
        del feed
        self._merge(predictions, phases)
        self._submitted = True

    def wait(self, slot: int) -> None:
        self._check_open()
        submitted, self._submitted = self._submitted, False
        if not submitted:
            raise BackendError(f"nothing was submitted in slot {slot}, or it was waited for already")

    def merged(self, frame_slot: int) -> NDArray[Any]:
        self._check_open()
        if self._merged is None:
            raise nothing_merged(frame_slot)
        return self._merged

    def result(self, frame_slot: int) -> NDArray[Any]:
        try:
            return np.ascontiguousarray(self.grid.unpadded(self.merged(frame_slot)))
        except MemoryError as error:
            raise OutOfMemory("the memory does not suffice for the cropped result") from error

    def unload(self, slot: int) -> None:
        # Before the next frame is prepared: its planes must not lie beside these.
        self._planes = self._merged = None
        self._submitted = False

    def memory(self) -> Mapping[str, int]:
        return {}

    def close(self) -> None:
        self._closed = True
        self.unload(0)
        self._runners.close()

    def _merge(self, predictions: NDArray[Any], phases: list[Phase]) -> None:
        grid, of_pixel = self.grid, predictions.shape[1:-2]
        check_predictions(grid, predictions.shape, len(phases))
        if self._merged is None:
            try:
                self._merged = np.empty((*of_pixel, *grid.padded_size), predictions.dtype)
            except MemoryError as error:
                raise OutOfMemory("the memory does not suffice for the merged result") from error
        grid.place(predictions, phases, self._merged)

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()
