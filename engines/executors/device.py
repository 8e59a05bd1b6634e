"""Executing on a device with memory of its own.

What happens to a frame, and on which stream::

    copy stream      upload frame ─┐
    compute stream                 └─> prepare ─> [cut windows ─> trunk ─> download predictions] per sub-batch

The next frame is uploaded while this one is computed. All work on the compute stream is in order, so the windows and
the predictions need one buffer each, and the engines share one block of memory. The host waits for nothing but the
predictions that it collects, which lie in as many pinned buffers as sub-batches may be in flight.

Places for frames and predictions are few and fixed, callers are not: one who comes when all are taken gets the one
that was used longest ago, whose owner keeps a copy of its content in ordinary memory. So any number of frames may be
half done, from any number of threads, and nobody waits for somebody who may never come back.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.devices.base import Copies, Device, DeviceEngine, Execution, Graph, Stream, pinned_array
from engines.errors import BackendError, OutOfMemory
from engines.executors.base import Executor, LoadedFrame, PendingPhases, closed_error
from engines.executors.places import FramePlace, PredictionPlace
from engines.executors.resources import Resources
from engines.schedules.phases import Phase, PhaseGrid

_CHANNELS = 3
_FLOAT = 4
"""Bytes."""
_PLACES = 2
"""For frames, and for predictions: one that is computed and one that is copied."""


class DeviceExecutor(Executor):
    """Computes the phases of frames with the engines of ``prepare.onnx`` and of a trunk.

    The executor owns the engines from the call on and closes them, also when opening fails. Everything is allocated
    here; running allocates nothing on the device.

    Args:
        device: where the engines are.
        prepare: ``frame`` uint8 ``(H, W, 3)`` -> ``planes`` float32.
        trunk: ``windows``, and ``offsets`` where the grid has inner windows -> one output.
        grid: the phases.
        sub_batch: the most phases at a time.

    Raises:
        OutOfMemory: the device or the host has no room.
        BackendError: the device or an engine refuses the work.
    """

    in_flight = _PLACES

    def __init__(
        self, device: Device, prepare: DeviceEngine, trunk: DeviceEngine, grid: PhaseGrid, sub_batch: int
    ) -> None:
        self.device = device
        self.grid = grid
        self._condition = threading.Condition(threading.RLock())
        self._closed = False
        self._waiting = 0
        self._clock = 0
        self._notes: list[str] = []
        self.on_stage: Callable[[str, Stream], None] | None = None
        """Called with the name of each stage when its work was queued, and with its stream: for measurements."""
        self._resources = Resources(device)
        try:
            for engine in (trunk, prepare):
                self._resources.engine(engine)
            self._copying, self._compute = self._resources.stream(), self._resources.stream()
            self._allocate(prepare, trunk, grid.sub_batches(sub_batch))
            self._warm_up()
        except BaseException:
            self._resources.close()
            raise

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def memory(self) -> Mapping[str, int]:
        return dict(self._resources.sizes)

    def load(self, image: NDArray[np.uint8]) -> LoadedFrame:
        frame = DeviceFrame(self)
        with self._condition:
            self._check_open()
            self._upload(frame, image)
        return frame

    def close(self) -> None:
        with self._condition:
            self._closed = True
            # Their events must outlive them; the work they wait for ends by itself.
            self._condition.wait_for(lambda: not self._waiting)
            self._resources.close()

    def submit(self, frame: DeviceFrame, phases: list[Phase]) -> PendingOnDevice:
        """Queue one sub-batch of a frame; the frame is uploaded anew if its place was taken."""
        with self._condition:
            self._check_open()
            if frame.place is None:
                if frame.kept is None:
                    raise closed_error()
                self._upload(frame, frame.kept)
            assert frame.place is not None
            place = frame.place
            place.used = self._tick()
            self._say("begin")
            self._prepare_once(place)
            self._say("prepare")
            pending = PendingOnDevice(self, frame)
            output = self._take_prediction_place(pending)
            try:
                self._cut(place, phases)
                self._set_offsets(phases)
                self._say("cut")
                self._run_trunk(len(phases))
                self._say("trunk")
                size = output.size_of(len(phases))
                self.device.copy(output.pinned, self._predictions, size, Copies.TO_HOST, self._compute)
                self._say("download")
                self.device.record(output.done, self._compute)
            except BaseException:
                output.owner = None
                raise
            pending.place, pending.phases = output, len(phases)
            frame.pending.append(pending)
            return pending

    def collect(self, pending: PendingOnDevice) -> NDArray[Any]:
        """Wait for a sub-batch and take its predictions."""
        with self._condition:
            place = pending.place
            if pending.result is None:
                self._check_open()
                if place is None:
                    raise BackendError("the predictions of this sub-batch are given up or taken already")
                self._waiting += 1
        if place is not None:
            try:
                # Without the lock: others queue their work meanwhile.
                self.device.wait(place.done)
            except BaseException:
                # Ctrl-C comes here most of the time, and a session that waits for this one could never close.
                self._leave(pending, keep=False)
                raise
            self._leave(pending, keep=True)
        result, pending.result = pending.result, None
        assert result is not None
        return result

    def release(self, frame: DeviceFrame) -> None:
        """Give the places of a frame and of what it has under way to others."""
        with self._condition:
            for pending in list(frame.pending):
                pending.give_up()
            if frame.place is not None:
                frame.place.owner = None
                frame.place = None
            frame.kept = None

    def _leave(self, pending: PendingOnDevice, *, keep: bool) -> None:
        with self._condition:
            try:
                # Another thread may have put the result aside meanwhile.
                if pending.place is not None:
                    if keep:
                        pending.result = pending.place.taken(pending.phases)
                    pending.give_up()
            finally:
                self._waiting -= 1
                self._condition.notify_all()

    def _say(self, stage: str) -> None:
        if self.on_stage is not None:
            self.on_stage(stage, self._compute)

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()

    def _tick(self) -> int:
        self._clock += 1
        return self._clock

    # What is queued for a frame and its sub-batches; the lock is held.

    def _upload(self, frame: DeviceFrame, image: NDArray[np.uint8]) -> None:
        place = self._take_frame_place()
        device = self.device
        # The pinned memory may still be read by the upload before.
        device.wait(place.uploaded)
        place.view[...] = image
        device.stream_wait(self._copying, place.consumed)
        device.copy(place.frame, place.pinned, place.view.nbytes, Copies.TO_DEVICE, self._copying)
        device.record(place.uploaded, self._copying)
        place.owner, place.prepared, place.used = frame, False, self._tick()
        frame.place, frame.kept = place, None

    def _prepare_once(self, place: FramePlace) -> None:
        if place.prepared:
            return
        self.device.stream_wait(self._compute, place.uploaded)
        place.prepare.enqueue(self._compute)
        self.device.record(place.consumed, self._compute)
        place.prepared = True

    def _cut(self, place: FramePlace, phases: list[Phase]) -> None:
        """Windows ``(phases, 3, H', W')`` from planes ``(3, H, W)``: as ``PhaseGrid.cut``, a copy for each channel."""
        (rows, columns), (height, width) = self.grid.planes_size, self.grid.crop_size
        g, f = self.grid.cut_window
        for index, (row, column) in enumerate(phases):
            for channel in range(_CHANNELS):
                to = self._windows + (index * _CHANNELS + channel) * height * width * _FLOAT
                source = place.planes + ((channel * rows + row % g) * columns + column % f) * _FLOAT
                size = (height, width * _FLOAT)
                self.device.copy_2d(to, width * _FLOAT, source, columns * _FLOAT, size, self._compute)

    def _set_offsets(self, phases: list[Phase]) -> None:
        if self.grid.inner_windows:
            offsets = self.grid.inner_offsets(phases)
            source = self._table + self._table_rows[offsets.tobytes()] * offsets.nbytes
            self.device.copy(self._offsets, source, offsets.nbytes, Copies.ON_DEVICE, self._compute)

    def _run_trunk(self, phases: int) -> None:
        execution, graph = self._trunks[phases]
        if graph is None:
            execution.enqueue(self._compute)
        else:
            self.device.launch(graph, self._compute)

    # Places.

    def _take_frame_place(self) -> FramePlace:
        place = min(self._frame_places, key=lambda place: (place.owner is not None, place.used))
        if place.owner is not None:
            place.owner.kept, place.owner.place = place.view.copy(), None
            place.owner = None
        return place

    def _take_prediction_place(self, pending: PendingOnDevice) -> PredictionPlace:
        place = min(self._prediction_places, key=lambda place: (place.owner is not None, place.used))
        if place.owner is not None:
            self.device.wait(place.done)
            owner = place.owner
            owner.result = place.taken(owner.phases)
            owner.give_up()
        place.owner, place.used = pending, self._tick()
        return place

    # Opening.

    def _allocate(self, prepare: DeviceEngine, trunk: DeviceEngine, groups: list[list[Phase]]) -> None:
        grid, resources = self.grid, self._resources
        lengths = sorted({len(group) for group in groups}, reverse=True)
        window = (_CHANNELS, *grid.crop_size)
        self._windows = resources.memory("windows", lengths[0] * math.prod(window) * _FLOAT)
        addresses = {"windows": self._windows}
        shapes: dict[str, tuple[int, ...]] = {}
        if grid.inner_windows:
            self._allocate_offsets(groups)
            addresses["offsets"] = self._offsets
            shapes["offsets"] = (len(grid.inner_windows), 2)
        (output,) = trunk.outputs
        executions = {
            length: resources.execution(trunk, {"windows": (length, *window), **shapes}) for length in lengths
        }
        shape = executions[lengths[0]].outputs[output.name]
        size = math.prod(shape) * output.dtype.itemsize
        self._predictions = addresses[output.name] = resources.memory("predictions", size)
        self._prediction_places = [
            PredictionPlace(resources.pinned(size), output.dtype, shape, resources.event()) for _ in range(_PLACES)
        ]
        self._frame_places = [self._frame_place(prepare) for _ in range(_PLACES)]
        bindings = [
            *((place.prepare, {"frame": place.frame, "planes": place.planes}) for place in self._frame_places),
            *((execution, addresses) for execution in executions.values()),
        ]
        # Executions take turns on one stream, so one block of the largest size serves all.
        size = max(execution.memory_size for execution, _ in bindings)
        block = resources.memory("engines", size) if size else 0
        for execution, bound in bindings:
            execution.bind(bound, block, size)
        self._trunks: dict[int, tuple[Execution, Graph | None]] = {
            length: (execution, None) for length, execution in executions.items()
        }

    def _allocate_offsets(self, groups: list[list[Phase]]) -> None:
        """All inner offsets of the schedule, on the device for good: a sub-batch copies its own from there."""
        device, resources = self.device, self._resources
        contents = sorted({self.grid.inner_offsets(group).tobytes() for group in groups})
        self._table_rows = {content: row for row, content in enumerate(contents)}
        table = b"".join(contents)
        self._offsets = resources.memory("offsets", len(contents[0]))
        self._table = resources.memory("offsets", len(table))
        pinned = resources.pinned(len(table))
        pinned_array(pinned, np.dtype(np.uint8), (len(table),))[...] = np.frombuffer(table, np.uint8)
        device.copy(self._table, pinned, len(table), Copies.TO_DEVICE, self._compute)
        # The warm-up reads them, and an engine may gather by nothing but valid offsets.
        device.copy(self._offsets, self._table, len(contents[0]), Copies.ON_DEVICE, self._compute)

    def _frame_place(self, prepare: DeviceEngine) -> FramePlace:
        grid, resources = self.grid, self._resources
        shape = (*grid.frame_size, _CHANNELS)
        return FramePlace(
            pinned=resources.pinned(math.prod(shape)),
            shape=shape,
            frame=resources.memory("frames", math.prod(shape)),
            planes=resources.memory("planes", _CHANNELS * math.prod(grid.planes_size) * _FLOAT),
            prepare=resources.execution(prepare, {"frame": shape}),
            uploaded=resources.event(),
            consumed=resources.event(),
        )

    def _warm_up(self) -> None:
        """Run each sub-batch once, so that kernels are loaded, then capture it in a graph."""
        for length, (execution, _) in list(self._trunks.items()):
            execution.enqueue(self._compute)
            self.device.synchronize(self._compute)
            reason = execution.uncapturable(self._compute)
            if not reason:
                try:
                    graph = self._resources.graph(partial(execution.enqueue, self._compute), self._compute)
                    self._trunks[length] = execution, graph
                except OutOfMemory:
                    raise
                except BackendError as error:
                    reason = str(error)
            if reason:
                self._notes.append(f"sub-batches of {length} are not captured in a graph: {reason}")


class DeviceFrame(LoadedFrame):
    """A frame in one of the places, or on its way back to one."""

    def __init__(self, executor: DeviceExecutor) -> None:
        self._executor = executor
        self.place: FramePlace | None = None
        self.kept: NDArray[np.uint8] | None = None
        """The frame's content while it has no place."""
        self.pending: list[PendingOnDevice] = []

    def submit(self, phases: list[Phase]) -> PendingPhases:
        return self._executor.submit(self, phases)

    def close(self) -> None:
        self._executor.release(self)


class PendingOnDevice(PendingPhases):
    """A sub-batch whose predictions are in one of the places, or were put aside."""

    def __init__(self, executor: DeviceExecutor, frame: DeviceFrame) -> None:
        self._executor = executor
        self.frame = frame
        self.place: PredictionPlace | None = None
        self.phases = 0
        self.result: NDArray[Any] | None = None
        """Put aside when the place was needed for others."""

    def give_up(self) -> None:
        """The place is free for somebody else."""
        if self.place is not None:
            self.place.owner = None
            self.place = None
            self.frame.pending.remove(self)

    def collect(self) -> NDArray[Any]:
        return self._executor.collect(self)
