"""Engines on the device in host memory, with ONNX Runtime inside, and sessions on them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engines import Bundle, Precision, Schedule, Session
from engines.backends.onnxruntime.engine import OnnxRuntimeEngine
from engines.backends.onnxruntime.sessions import Provider
from engines.devices.base import ALIGNMENT, DeviceEngine, Execution, Stream
from engines.errors import BackendError, OutOfMemory
from engines.executors.device import DeviceExecutor
from tests.engines.executors.host_device import POISON, HostDevice, Misuse


class HostEngine(DeviceEngine):
    """An ONNX graph that reads and writes addresses.

    Args:
        memory_size: bytes to lend to an execution, for each phase; 0 for an engine that manages its own memory.
        capturable: whether a graph may hold it.
        broken: its work fails, when it is done.
        grows: its arena takes memory of the device in so many of its first runs.
        late: what capturing forbade is reported once more, by the run after it.
    """

    def __init__(
        self,
        device: HostDevice,
        graph: Path,
        stream: Stream,
        *,
        memory_size: int = 1000,
        capturable: bool = True,
        broken: bool = False,
        grows: int = 0,
        late: bool = False,
    ) -> None:
        device.check_current()
        device.request(graph.name)
        self.device, self.stream = device, stream
        self.memory_size = memory_size
        self.capturable = capturable
        self.broken = broken
        self.grows = grows
        self.late = late
        self.owed: BackendError | None = None
        self.arena: list[int] = []
        self.engine = OnnxRuntimeEngine(graph, Provider.CPU, {})
        self.inputs, self.outputs = self.engine.inputs, self.engine.outputs
        device.handles.add(self)

    def execution(self, shapes: Mapping[str, tuple[int, ...]]) -> Execution:
        self.device.check_current()
        return HostExecution(self, shapes)

    def close(self) -> None:
        self.device.check_current()
        if self.stream not in self.device.handles:
            raise Misuse("an engine outlives its stream")
        self.engine.close()
        for address in self.arena:
            self.device.free(address)
        self.device.handles.discard(self)


class HostExecution(Execution):
    def __init__(self, engine: HostEngine, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.engine, self.device, self.shapes = engine, engine.device, dict(shapes)
        assert set(shapes) == {spec.name for spec in engine.inputs}
        self.execution = engine.engine.execution(shapes)
        self.outputs = self.execution.outputs
        self.memory_size = engine.memory_size * max(shapes.get("windows", (1,))[0], 1)
        self.runs = 0
        self.device.request("an execution")
        self.device.handles.add(self)

    def bind(self, addresses: Mapping[str, int], memory: int, memory_size: int) -> None:
        self.device.check_current()
        assert set(addresses) == {spec.name for spec in (*self.engine.inputs, *self.engine.outputs)}
        assert memory_size >= self.memory_size
        assert memory % ALIGNMENT == 0
        self.addresses, self.memory, self.block = dict(addresses), memory, memory_size
        self.execution.bind(addresses, 0, 0)

    def enqueue(self, stream: Stream) -> None:
        self.device.check_current()
        if stream is not self.engine.stream:
            raise Misuse("the engine was opened for another stream")
        if stream.capturing is not None and not self.runs:
            raise Misuse("captured before it ran once")
        owed, self.engine.owed = self.engine.owed, None
        if owed is not None:
            raise owed
        if stream.capturing is not None and not self.engine.capturable:
            refused = BackendError("this engine cannot be captured")
            self.engine.owed = refused if self.engine.late else None
            raise refused
        if len(self.engine.arena) < self.engine.grows:
            self.engine.arena.append(self.device.allocate(100))
        if self.device.fail_runs and self.runs and stream.capturing is None:
            self.device.fail_runs -= 1
            raise OutOfMemory("the host device has no room for a run")
        self.runs += 1
        self.device.queue(self._run, stream)

    def _run(self) -> None:
        if self not in self.device.handles or self.engine not in self.device.handles:
            raise Misuse("the engine runs after it was closed")
        if self.engine.broken:
            raise BackendError("an illegal memory access was encountered")
        if self.engine.memory_size:
            # Scratch memory is written from end to end, so sharing it with what is under way would show.
            self.device.check_range(self.memory, self.block, pinned=False)
            ctypes.memset(self.memory, POISON, self.block)
        shapes = {**self.shapes, **self.outputs}
        for spec in (*self.engine.inputs, *self.engine.outputs):
            size = int(np.prod(shapes[spec.name])) * spec.dtype.itemsize
            self.device.check_range(self.addresses[spec.name], size, pinned=False)
        # The device's own time: ONNX Runtime's CPU knows no streams.
        self.execution.enqueue(None)

    def uncapturable(self, stream: Stream) -> str:
        return ""

    def close(self) -> None:
        self.execution.close()
        self.device.handles.discard(self)


def opener(
    device: HostDevice, bundle: Bundle, *, limit: int | None = None, **options: Any
) -> Callable[[Schedule], DeviceExecutor]:
    """Opens executors of the bundle on the device, as a session asks for them. The options are the trunk's engine's."""

    def open_executor(schedule: Schedule) -> DeviceExecutor:
        trunk = bundle.manifest.trunk_of(schedule)
        graph = bundle.file(bundle.trunk_graph(trunk, Precision.FP32))
        return DeviceExecutor(
            device,
            lambda stream: HostEngine(device, bundle.file(bundle.manifest.prepare), stream),
            lambda stream: HostEngine(device, graph, stream, **options),
            bundle.manifest.grid(trunk),
            schedule.sub_batch,
            limit,
        )

    return open_executor


def session_on(device: HostDevice, bundle: Bundle, schedule: Schedule, *smaller: Schedule) -> Session:
    return Session(bundle, opener(device, bundle), schedule, smaller)


def frames(count: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8) for seed in range(count)]
