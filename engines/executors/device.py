"""Executing on a device with memory of its own: nothing crosses but a frame and its merged predictions.

What happens to a frame, and on which stream::

    uploads   upload frame ─┐
    compute                 └─> prepare ─> [cut windows ─> trunk ─> keep predictions] per sub-batch ─┐
    merging                                                            [merge] per sub-batch <───────┘
    downloads                                                             └─> download what is merged

Two slots for frames: the next one is uploaded while this one is computed. Two slots for sub-batches: one is queued, and
one is merged, while the device computes. All work on the compute stream is in order, so the planes, the windows and
the predictions of a sub-batch need one buffer each, and the engines share one block of memory.

Between the streams four things are waited for, and no more: the compute stream waits for the upload of a frame, merging
for the predictions of a sub-batch, the compute stream, before it keeps the next predictions in the same slot, for those
to be merged, and a download for what is to be merged by then. The host waits for a sub-batch, and for a download. A
frame's slot may be filled anew at any time, since what is computed from its old content is given up then: uploads
follow one another on one stream, sub-batches on the second, and merging on the third.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.devices.base import Box, Copies, Device, DeviceEngine, Execution, Graph, OpenEngine, Stream, pinned_array
from engines.errors import BackendError, OutOfMemory, WorkFailed
from engines.executors.base import Executor, check_predictions, closed_error, nothing_merged
from engines.executors.buffers import CHANNELS, FLOAT, SLOTS, buffers_of
from engines.executors.resources import Resources
from engines.executors.slots import FrameSlot, SubBatchSlot, frame_slot, predictions_of_pixel, sub_batch_slot
from engines.schedules.phases import Phase, PhaseGrid


class DeviceExecutor(Executor):
    """Computes the phases of frames with the engines of ``prepare.onnx`` and of a trunk.

    The executor opens the engines and closes them. Everything is allocated here; running allocates nothing on the
    device, but for what engines keep to themselves.

    Args:
        device: where the engines are to be.
        open_prepare: ``frame`` uint8 ``(H, W, 3)`` -> ``planes`` float32.
        open_trunk: ``windows``, and ``offsets`` where the grid has inner windows -> one output.
        grid: the phases.
        sub_batch: the most phases at a time.
        limit: bytes of the device that may be allocated here; ``None`` for any. What engines manage themselves does
            not count.

    Raises:
        OutOfMemory: the device or the host has no room, or the limit does not suffice.
        WorkFailed: the engines were there, and broke when they ran for the first time.
        BackendError: the device or an engine refuses the work.
    """

    slots = SLOTS

    def __init__(
        self,
        device: Device,
        open_prepare: OpenEngine,
        open_trunk: OpenEngine,
        grid: PhaseGrid,
        sub_batch: int,
        limit: int | None = None,
    ) -> None:
        self.device = device
        self.grid = grid
        self.on_stage: Callable[[str, Stream], None] | None = None
        """Called with the name of each stage when its work was queued, and with its stream: for measurements."""
        self._closed = False
        self._notes: list[str] = []
        self._frames: list[FrameSlot] = []
        self._prepared: FrameSlot | None = None
        """Whose planes are there."""
        self._resources = Resources(device)
        with device.current():
            try:
                self._uploads, self._compute, self._merging, self._downloads = (
                    self._resources.stream() for _ in range(4)
                )
                prepare = self._resources.engine(open_prepare, self._compute)
                trunk = self._resources.engine(open_trunk, self._compute)
                self._allocate(prepare, trunk, grid.sub_batches(sub_batch))
                self._check_limit(limit)
                self._warm_up()
            except BaseException:
                # A device whose work broke refuses everything; what broke first is what is said.
                with suppress(BackendError):
                    self._resources.close()
                raise

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def memory(self) -> Mapping[str, int]:
        return dict(self._resources.sizes)

    def load(self, image: NDArray[np.uint8], slot: int) -> None:
        self._check_open()
        self.unload(slot)
        frame, device = self._frames[slot], self.device
        frame.view[...] = image
        with device.current():
            device.copy(frame.frame, frame.pinned, frame.view.nbytes, Copies.TO_DEVICE, self._uploads)
            device.record(frame.uploaded, self._uploads)
        frame.loaded = True

    def submit(self, frame_slot: int, phases: list[Phase], slot: int) -> None:
        self._check_open()
        frame, output = self._frames[frame_slot], self._outputs[slot]
        output.frame = None
        if not frame.loaded:
            raise BackendError(f"no frame was loaded into slot {frame_slot}")
        with self.device.current():
            self._say("begin", self._compute)
            self._prepare_once(frame)
            self._say("prepare", self._compute)
            self._cut(phases)
            self._set_offsets(phases)
            self._say("cut", self._compute)
            self._run_trunk(len(phases))
            self._say("trunk", self._compute)
            self._keep(output, len(phases))
            self._merge(output, frame, phases)
            self._say("merge", self._merging)
            self.device.record(output.merged, self._merging)
            self.device.record(frame.merging, self._merging)
        output.frame, frame.begun = frame, True

    def wait(self, slot: int) -> None:
        self._check_open()
        output = self._outputs[slot]
        frame, output.frame = output.frame, None
        if frame is None:
            raise BackendError(f"nothing was submitted in slot {slot}, or it was waited for or given up already")
        with self.device.current():
            self.device.wait(output.merged)

    def merged(self, frame_slot: int) -> NDArray[Any]:
        self._check_open()
        frame, device = self._frames[frame_slot], self.device
        if not frame.begun:
            raise nothing_merged(frame_slot)
        with device.current():
            device.stream_wait(self._downloads, frame.merging)
            device.copy(frame.pinned_result, frame.merged, frame.result.nbytes, Copies.TO_HOST, self._downloads)
            device.record(frame.downloaded, self._downloads)
            device.wait(frame.downloaded)
        return frame.result

    def result(self, frame_slot: int) -> NDArray[Any]:
        try:
            return self.grid.unpadded(self.merged(frame_slot)).copy()
        except MemoryError as error:
            raise OutOfMemory("the memory does not suffice for the result") from error

    def unload(self, slot: int) -> None:
        frame = self._frames[slot]
        frame.loaded = frame.begun = False
        if self._prepared is frame:
            self._prepared = None
        for output in self._outputs:
            if output.frame is frame:
                output.frame = None

    def close(self) -> None:
        self._closed = True
        with self.device.current():
            self._resources.close()

    def _check_limit(self, limit: int | None) -> None:
        held = sum(size for purpose, size in self._resources.sizes.items() if purpose != "pinned")
        if limit is not None and held > limit:
            raise OutOfMemory(f"buffers and engines take {held} bytes of the device, where the budget leaves {limit}")

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()

    def _say(self, stage: str, stream: Stream) -> None:
        if self.on_stage is not None:
            self.on_stage(stage, stream)

    # What is queued on the compute stream.

    def _prepare_once(self, frame: FrameSlot) -> None:
        if self._prepared is not frame:
            self.device.stream_wait(self._compute, frame.uploaded)
            frame.prepare.enqueue(self._compute)
            self._prepared = frame

    def _cut(self, phases: list[Phase]) -> None:
        """Windows ``(phases, 3, H', W')`` from planes ``(3, H, W)``: as ``PhaseGrid.cut``."""
        (rows, columns), (height, width) = self.grid.planes_size, self.grid.crop_size
        g, f = self.grid.cut_window
        for index, (row, column) in enumerate(phases):
            window = Box(self._windows + index * CHANNELS * height * width * FLOAT, width * FLOAT, height)
            planes = Box(self._planes + (row % g * columns + column % f) * FLOAT, columns * FLOAT, rows)
            self.device.copy_box(window, planes, (CHANNELS, height, width * FLOAT), self._compute)

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

    def _keep(self, output: SubBatchSlot, phases: int) -> None:
        """The trunk's predictions, out of the way of the next ones."""
        self.device.stream_wait(self._compute, output.merged)
        size = phases * self._prediction_bytes
        self.device.copy(output.predictions, self._predictions, size, Copies.ON_DEVICE, self._compute)
        self.device.record(output.computed, self._compute)

    # What is queued on the stream of merging.

    def _merge(self, output: SubBatchSlot, frame: FrameSlot, phases: list[Phase]) -> None:
        """Predictions ``(phases, ..., i, j)`` to their pixels of ``(..., H, W)``: as ``PhaseGrid.place``.

        A prediction is a row of its own: it has neighbours in what the trunk gives, and none in what is merged.
        """
        self.device.stream_wait(self._merging, output.computed)
        (h, w), (i, j), (height, width) = self.grid.window, self.grid.phase_size, self.grid.padded_size
        of_pixel, item = math.prod(frame.result.shape[:-2]), frame.result.itemsize
        for index, (row, column) in enumerate(phases):
            for number in range(of_pixel):
                source = output.predictions + (index * of_pixel + number) * i * j * item
                target = frame.merged + (number * height * width + row * width + column) * item
                # From a row of predictions to the next it is h rows of pixels, which are h * j predictions apart.
                self.device.copy_box(Box(target, w * item, h * j), Box(source, item, j), (i, j, item), self._merging)

    # Opening.

    def _allocate(self, prepare: DeviceEngine, trunk: DeviceEngine, groups: list[list[Phase]]) -> None:
        grid, resources = self.grid, self._resources
        lengths = sorted({len(group) for group in groups}, reverse=True)
        (output,) = trunk.outputs
        pixel_bytes = math.prod(predictions_of_pixel(output)) * output.dtype.itemsize
        buffers = buffers_of(grid, lengths[0], pixel_bytes)
        window = (CHANNELS, *grid.crop_size)
        self._planes = resources.memory("planes", buffers.planes)
        self._windows = resources.memory("windows", buffers.windows)
        addresses = {"windows": self._windows}
        shapes: dict[str, tuple[int, ...]] = {}
        if grid.inner_windows:
            self._allocate_offsets(groups)
            addresses["offsets"] = self._offsets
            shapes["offsets"] = (len(grid.inner_windows), 2)
        trunks = {length: resources.execution(trunk, {"windows": (length, *window), **shapes}) for length in lengths}
        for length, execution in trunks.items():
            check_predictions(grid, execution.outputs[output.name], length)
        self._predictions = resources.memory("predictions", buffers.predictions)
        self._prediction_bytes = math.prod(grid.phase_size) * pixel_bytes
        addresses[output.name] = self._predictions
        self._outputs = [sub_batch_slot(resources, buffers) for _ in range(self.slots)]
        self._frames = [frame_slot(resources, prepare, grid, output, buffers) for _ in range(self.slots)]
        self._bind(
            [
                *((slot.prepare, {"frame": slot.frame, "planes": self._planes}) for slot in self._frames),
                *((execution, addresses) for execution in trunks.values()),
            ]
        )
        self._trunks: dict[int, tuple[Execution, Graph | None]] = {
            length: (execution, None) for length, execution in trunks.items()
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

    def _bind(self, bindings: list[tuple[Execution, dict[str, int]]]) -> None:
        """Executions take turns on one stream, so one block of the largest size serves all that want memory."""
        size = max(execution.memory_size for execution, _ in bindings)
        block = self._resources.memory("engines", size) if size else 0
        for execution, addresses in bindings:
            execution.bind(addresses, block, size)

    def _warm_up(self) -> None:
        """Run everything until no engine takes further memory, so that kernels are loaded, too; then capture.

        What goes wrong in the work itself is raised here, and not with somebody's first frame.
        """
        try:
            for _ in range(_MOST_WARM_UPS):
                free = self.device.free_bytes()
                self._run_once()
                if self.device.free_bytes() >= free:
                    break
            for length in self._trunks:
                self._capture(length)
        except OutOfMemory:
            raise
        except BackendError as error:
            raise WorkFailed(str(error)) from error

    def _run_once(self) -> None:
        """All engines at all shapes, and wait."""
        for frame in self._frames:
            frame.prepare.enqueue(self._compute)
        for execution, _ in self._trunks.values():
            execution.enqueue(self._compute)
        self.device.synchronize(self._compute)

    def _capture(self, length: int) -> None:
        """Sub-batches of so many phases become a graph, where that can be; else a note says why not."""
        execution, _ = self._trunks[length]
        reason = execution.uncapturable(self._compute)
        if not reason:
            try:
                graph = self._resources.graph(partial(execution.enqueue, self._compute), self._compute)
                self._trunks[length] = execution, graph
            except BackendError as error:
                # While work is captured a library is forbidden much, and it may call that anything: an arena that
                # would grow speaks of memory. Some report it once more with the next call.
                reason = f"capturing failed: {error}"
                with suppress(BackendError):
                    self._run_once()
                self._run_once()
        if reason:
            self._notes.append(f"sub-batches of {length} are not captured in a graph: {reason}")


_MOST_WARM_UPS = 8
"""An arena that still grows after so many runs has a leak, or somebody else takes the device's memory."""
