"""Executing on a device with memory of its own.

What happens to a frame, and on which stream::

    copy stream      upload frame ─┐
    compute stream                 └─> prepare ─> [cut windows ─> trunk ─> download predictions] per sub-batch

Two slots for frames: the next one is uploaded while this one is computed. Two slots for sub-batches: the host merges
one while the device computes the next. All work on the compute stream is in order, so the windows and the predictions
need one buffer each on the device, and the engines share one block of memory.

Two things are waited for, and no more: the compute stream waits for the upload of a frame, and the host for the
predictions that it collects. A slot may be filled anew at any time, since what is computed from its old content is
given up then: upload follows upload on one stream, download follows download on the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.devices.base import Copies, Device, DeviceEngine, Execution, Graph, OpenEngine, Stream, pinned_array
from engines.errors import BackendError, OutOfMemory, WorkFailed
from engines.executors.base import Executor, closed_error
from engines.executors.resources import Resources
from engines.executors.slots import CHANNELS, FLOAT, FrameSlot, frame_slot, sub_batch_slot
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

    Raises:
        OutOfMemory: the device or the host has no room.
        WorkFailed: the engines were there, and broke when they ran for the first time.
        BackendError: the device or an engine refuses the work.
    """

    slots = 2

    def __init__(
        self, device: Device, open_prepare: OpenEngine, open_trunk: OpenEngine, grid: PhaseGrid, sub_batch: int
    ) -> None:
        self.device = device
        self.grid = grid
        self.on_stage: Callable[[str, Stream], None] | None = None
        """Called with the name of each stage when its work was queued, and with its stream: for measurements."""
        self._closed = False
        self._notes: list[str] = []
        self._resources = Resources(device)
        with device.current():
            try:
                self._copying, self._compute = self._resources.stream(), self._resources.stream()
                prepare = self._resources.engine(open_prepare, self._compute)
                trunk = self._resources.engine(open_trunk, self._compute)
                self._allocate(prepare, trunk, grid.sub_batches(sub_batch))
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
            device.copy(frame.frame, frame.pinned, frame.view.nbytes, Copies.TO_DEVICE, self._copying)
            device.record(frame.uploaded, self._copying)
        frame.loaded = True

    def submit(self, frame_slot: int, phases: list[Phase], slot: int) -> None:
        self._check_open()
        frame, output = self._frames[frame_slot], self._outputs[slot]
        output.phases = 0
        if not frame.loaded:
            raise BackendError(f"no frame was loaded into slot {frame_slot}")
        with self.device.current():
            self._say("begin")
            self._prepare_once(frame)
            self._say("prepare")
            self._cut(frame, phases)
            self._set_offsets(phases)
            self._say("cut")
            self._run_trunk(len(phases))
            self._say("trunk")
            size = output.size(len(phases))
            self.device.copy(output.pinned, self._predictions, size, Copies.TO_HOST, self._compute)
            self._say("download")
            self.device.record(output.done, self._compute)
        output.phases, output.frame = len(phases), frame

    def collect(self, slot: int) -> NDArray[Any]:
        self._check_open()
        output = self._outputs[slot]
        phases, output.phases = output.phases, 0
        if not phases:
            raise BackendError(f"nothing was submitted in slot {slot}, or it is collected or given up already")
        with self.device.current():
            self.device.wait(output.done)
        return output.view[:phases]

    def unload(self, slot: int) -> None:
        frame = self._frames[slot]
        frame.loaded = frame.prepared = False
        for output in self._outputs:
            if output.frame is frame:
                output.phases = 0

    def close(self) -> None:
        self._closed = True
        with self.device.current():
            self._resources.close()

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error()

    def _say(self, stage: str) -> None:
        if self.on_stage is not None:
            self.on_stage(stage, self._compute)

    # What is queued on the compute stream.

    def _prepare_once(self, frame: FrameSlot) -> None:
        if not frame.prepared:
            self.device.stream_wait(self._compute, frame.uploaded)
            frame.prepare.enqueue(self._compute)
            frame.prepared = True

    def _cut(self, frame: FrameSlot, phases: list[Phase]) -> None:
        """Windows ``(phases, 3, H', W')`` from planes ``(3, H, W)``: as ``PhaseGrid.cut``, a copy for each channel."""
        (rows, columns), (height, width) = self.grid.planes_size, self.grid.crop_size
        g, f = self.grid.cut_window
        for index, (row, column) in enumerate(phases):
            for channel in range(CHANNELS):
                to = self._windows + (index * CHANNELS + channel) * height * width * FLOAT
                source = frame.planes + ((channel * rows + row % g) * columns + column % f) * FLOAT
                size = (height, width * FLOAT)
                self.device.copy_2d(to, width * FLOAT, source, columns * FLOAT, size, self._compute)

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

    # Opening.

    def _allocate(self, prepare: DeviceEngine, trunk: DeviceEngine, groups: list[list[Phase]]) -> None:
        grid, resources = self.grid, self._resources
        lengths = sorted({len(group) for group in groups}, reverse=True)
        window = (CHANNELS, *grid.crop_size)
        self._windows = resources.memory("windows", lengths[0] * math.prod(window) * FLOAT)
        addresses = {"windows": self._windows}
        shapes: dict[str, tuple[int, ...]] = {}
        if grid.inner_windows:
            self._allocate_offsets(groups)
            addresses["offsets"] = self._offsets
            shapes["offsets"] = (len(grid.inner_windows), 2)
        (output,) = trunk.outputs
        trunks = {length: resources.execution(trunk, {"windows": (length, *window), **shapes}) for length in lengths}
        shape = trunks[lengths[0]].outputs[output.name]
        self._outputs = [sub_batch_slot(resources, output, shape) for _ in range(self.slots)]
        self._predictions = resources.memory("predictions", self._outputs[0].view.nbytes)
        addresses[output.name] = self._predictions
        self._frames = [frame_slot(resources, prepare, grid) for _ in range(self.slots)]
        self._bind(
            [
                *((slot.prepare, {"frame": slot.frame, "planes": slot.planes}) for slot in self._frames),
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
        """Run everything once, so that kernels are loaded and engines have what memory they manage; then capture.

        What goes wrong in the work itself is raised here, and not with somebody's first frame.
        """
        try:
            for frame in self._frames:
                frame.prepare.enqueue(self._compute)
            for execution, _ in self._trunks.values():
                execution.enqueue(self._compute)
            self.device.synchronize(self._compute)
        except OutOfMemory:
            raise
        except BackendError as error:
            raise WorkFailed(str(error)) from error
        for length, (execution, _) in list(self._trunks.items()):
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
