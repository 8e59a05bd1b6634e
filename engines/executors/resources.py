"""Everything that an executor holds of a device, on one stack, so that all of it is given back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress

from engines.devices.base import Device, DeviceEngine, Event, Execution, Graph, OpenEngine, Stream
from engines.errors import BackendError


class Resources:
    """Allocates on a device and remembers what to free. Nothing else frees. To be used where the device is current."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.sizes: dict[str, int] = {}
        """Bytes by purpose."""
        self._streams: list[Stream] = []
        self._stack = ExitStack()

    def memory(self, purpose: str, size: int) -> int:
        """Device memory; its address."""
        address = self.device.allocate(size)
        self._stack.callback(self.device.free, address)
        self.sizes[purpose] = self.sizes.get(purpose, 0) + size
        return address

    def pinned(self, size: int) -> int:
        """Pinned host memory; its address."""
        address = self.device.allocate_pinned(size)
        self._stack.callback(self.device.free_pinned, address)
        self.sizes["pinned"] = self.sizes.get("pinned", 0) + size
        return address

    def stream(self) -> Stream:
        """A stream, which :meth:`close` waits for."""
        stream = self.device.create_stream()
        self._stack.callback(self.device.destroy_stream, stream)
        self._streams.append(stream)
        return stream

    def event(self) -> Event:
        """An event."""
        event = self.device.create_event()
        self._stack.callback(self.device.destroy_event, event)
        return event

    def engine(self, open_engine: OpenEngine, stream: Stream) -> DeviceEngine:
        """An engine whose work goes on this stream."""
        engine = open_engine(stream)
        self._stack.callback(engine.close)
        return engine

    def execution(self, engine: DeviceEngine, shapes: Mapping[str, tuple[int, ...]]) -> Execution:
        """An engine at fixed shapes."""
        execution = engine.execution(shapes)
        self._stack.callback(execution.close)
        return execution

    def graph(self, queue: Callable[[], None], stream: Stream) -> Graph:
        """What ``queue`` queues on ``stream``, as a graph."""
        self.device.begin_capture(stream)
        try:
            queue()
        except BaseException:
            # The stream must leave its capture, whatever came of it.
            with suppress(BackendError):
                self.device.destroy_graph(self.device.end_capture(stream))
            raise
        graph = self.device.end_capture(stream)
        self._stack.callback(self.device.destroy_graph, graph)
        return graph

    def close(self) -> None:
        """Wait for the streams, then give everything back, the latest first; harmless when called again."""
        for stream in self._streams:
            # An error of the work itself is raised where the work is collected.
            with suppress(BackendError):
                self.device.synchronize(stream)
        self._streams.clear()
        self._stack.close()
