"""A device in host memory that is as unkind as a GPU may be.

Work that is queued is done as late as possible: when the host waits for it, and then no more than must be. So whoever
reads without waiting, or queues work on another stream without an event between, gets poison in place of data. Other
paces do all work at once, or that of the first stream alone: a GPU may do either. A thread that has not made the device
its current one would work on another GPU. What a GPU would take as undefined behaviour is a :class:`Misuse` here.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import numpy as np

from engines.devices.base import (
    ALIGNMENT,
    Box,
    Copies,
    Device,
    Event,
    Graph,
    Stream,
)
from engines.errors import BackendError, OutOfMemory

POISON = 0xA5


class Misuse(AssertionError):
    """What a GPU would not forgive, or not even notice."""


class Pace(enum.Enum):
    """When queued work is done, if nobody waits for it."""

    LATE = "late"
    EAGER = "eager"
    FIRST_EAGER = "first stream eager"


@dataclass(eq=False)
class HostStream:
    eager: bool
    work: deque[Callable[[], None]] = field(default_factory=deque)
    capturing: list[Callable[[], None]] | None = None


@dataclass(eq=False)
class Mark:
    """Work that does nothing but being reached."""

    stream: HostStream
    reached: bool = False

    def __call__(self) -> None:
        self.reached = True


@dataclass(eq=False)
class HostEvent:
    mark: Mark | None = None
    """The latest; ``None`` before the first."""


@dataclass(eq=False)
class HostGraph:
    work: list[Callable[[], None]]


def _locked(method: Any) -> Any:
    @wraps(method)
    def locked(self: HostDevice, *arguments: Any, **options: Any) -> Any:
        with self.lock:
            self.check_current()
            return method(self, *arguments, **options)

    return locked


class HostDevice(Device):
    """Counts what it gives, and takes it back once only. ``fail_at`` makes the n-th request for a resource fail."""

    name = "host memory"

    def __init__(self, pace: Pace = Pace.LATE, *, fail_at: int | None = None, capacity: int = 2**40) -> None:
        self.pace = pace
        self.streams = 0
        self.fail_at = fail_at
        self.capacity = capacity
        """Bytes of device memory."""
        self.fail_runs = 0
        """So many runs of engines fail for want of memory."""
        self.requests = 0
        self.waits = 0
        self.launches = 0
        self.lock = threading.RLock()
        self.blocks: dict[int, tuple[int, bool, Any]] = {}
        """Size, whether pinned, and the memory itself, by address."""
        self.handles: set[Any] = set()
        self._of_thread = threading.local()

    @contextmanager
    def current(self) -> Iterator[None]:
        self._of_thread.depth = getattr(self._of_thread, "depth", 0) + 1
        try:
            yield
        finally:
            self._of_thread.depth -= 1

    def check_current(self) -> None:
        """The calling thread works on this device."""
        if not getattr(self._of_thread, "depth", 0):
            raise Misuse("this device is not the thread's current one")

    @property
    def leaked(self) -> int:
        return len(self.blocks) + len(self.handles)

    @property
    def device_bytes(self) -> int:
        return sum(size for size, pinned, _ in self.blocks.values() if not pinned)

    def request(self, what: str) -> None:
        """Count a request; any may be the one that fails."""
        self.requests += 1
        if self.requests == self.fail_at:
            raise OutOfMemory(f"the host device has no room for {what}")

    def _new(self, size: int, *, pinned: bool) -> int:
        self.request(f"{size} bytes of {'pinned ' if pinned else ''}memory")
        memory = (ctypes.c_uint8 * (size + ALIGNMENT))()
        address = -(-ctypes.addressof(memory) // ALIGNMENT) * ALIGNMENT
        ctypes.memset(address, POISON, size)
        self.blocks[address] = (size, pinned, memory)
        return address

    def _give_back(self, address: int, *, pinned: bool) -> None:
        if address not in self.blocks or self.blocks[address][1] != pinned:
            raise Misuse(f"{address} is not {'pinned ' if pinned else ''}memory that was given")
        size = self.blocks[address][0]
        ctypes.memset(address, POISON, size)
        del self.blocks[address]

    @_locked
    def allocate(self, size: int) -> int:
        if any(isinstance(handle, HostStream) and handle.capturing is not None for handle in self.handles):
            raise Misuse("memory is allocated while work is captured")
        if size > self.free_bytes():
            raise OutOfMemory(f"the host device has no room for {size} bytes")
        return self._new(size, pinned=False)

    @_locked
    def free(self, address: int) -> None:
        self._give_back(address, pinned=False)

    @_locked
    def allocate_pinned(self, size: int) -> int:
        return self._new(size, pinned=True)

    @_locked
    def free_pinned(self, address: int) -> None:
        self._give_back(address, pinned=True)

    @_locked
    def free_bytes(self) -> int:
        return self.capacity - self.device_bytes

    def check_range(self, address: int, size: int, *, pinned: bool) -> None:
        """All of it lies in one block of this kind."""
        for start, (length, kind, _) in self.blocks.items():
            if start <= address and address + size <= start + length:
                if kind != pinned:
                    raise Misuse(f"{address} is {'pinned' if kind else 'device'} memory")
                return
        raise Misuse(f"{size} bytes at {address} are not memory that was given")

    @_locked
    def copy(self, to: int, source: int, size: int, kind: Copies, stream: Stream) -> None:
        def work() -> None:
            self.check_range(to, size, pinned=kind is Copies.TO_HOST)
            self.check_range(source, size, pinned=kind is Copies.TO_DEVICE)
            ctypes.memmove(to, source, size)

        self.queue(work, stream)

    @_locked
    def copy_box(self, to: Box, source: Box, size: tuple[int, int, int], stream: Stream) -> None:
        _, rows, width = size
        if width > min(to.pitch, source.pitch) or rows > min(to.rows, source.rows):
            raise Misuse("rows overlap")

        def work() -> None:
            target, origin = (self._box(box, size) for box in (to, source))
            target[...] = origin

        self.queue(work, stream)

    def _box(self, box: Box, size: tuple[int, int, int]) -> np.ndarray:
        """The bytes ``(planes, rows, bytes of a row)`` of a box."""
        planes, rows, width = size
        length = ((planes - 1) * box.rows + rows - 1) * box.pitch + width
        self.check_range(box.address, length, pinned=False)
        content = np.ctypeslib.as_array((ctypes.c_uint8 * length).from_address(box.address))
        return np.lib.stride_tricks.as_strided(content, size, (box.rows * box.pitch, box.pitch, 1))

    def queue(self, work: Callable[[], None], stream: HostStream) -> None:
        """Work on a stream: kept while it captures, else done sooner or later."""
        self._check(stream)
        if stream.capturing is not None:
            stream.capturing.append(work)
        else:
            stream.work.append(work)
            if stream.eager:
                self._work_off(stream)

    def _check(self, handle: Any) -> None:
        if handle not in self.handles:
            raise Misuse(f"{type(handle).__name__} is not one that was given")

    def _handle(self, handle: Any) -> Any:
        self.request(type(handle).__name__)
        self.handles.add(handle)
        return handle

    @_locked
    def _destroy(self, handle: Any) -> None:
        self._check(handle)
        if isinstance(handle, HostStream) and handle.work:
            raise Misuse("a stream with work on it is destroyed")
        self.handles.remove(handle)

    @_locked
    def create_stream(self) -> Stream:
        self.streams += 1
        return self._handle(
            HostStream(self.pace is Pace.EAGER or (self.pace is Pace.FIRST_EAGER and self.streams == 1))
        )

    destroy_stream = destroy_event = destroy_graph = _destroy

    def _work_off(self, stream: HostStream) -> None:
        while stream.work:
            self._do_first(stream)

    def _do_first(self, stream: HostStream) -> None:
        try:
            stream.work.popleft()()
        except BackendError:
            # After an error of the work itself, a GPU does nothing more.
            stream.work.clear()
            raise

    @_locked
    def synchronize(self, stream: Stream) -> None:
        self._check(stream)
        if stream.capturing is not None:
            raise Misuse("the host waits for a stream that captures")
        self._work_off(stream)

    @_locked
    def create_event(self) -> Event:
        return self._handle(HostEvent())

    @_locked
    def record(self, event: Event, stream: Stream) -> None:
        self._check(event)
        event.mark = Mark(stream)
        self.queue(event.mark, stream)

    @_locked
    def wait(self, event: Event) -> None:
        self._check(event)
        self.waits += 1
        self._reach(event.mark)

    @_locked
    def stream_wait(self, stream: Stream, event: Event) -> None:
        self._check(event)
        # What is recorded by now counts, not what is recorded later.
        mark = event.mark
        self.queue(lambda: self._reach(mark), stream)

    def _reach(self, mark: Mark | None) -> None:
        while mark is not None and not mark.reached:
            self._do_first(mark.stream)

    @_locked
    def elapsed_ms(self, start: Event, end: Event) -> float:
        for event in (start, end):
            self._check(event)
            if event.mark is None or not event.mark.reached:
                raise Misuse("a mark is not passed")
        return 1.0

    @_locked
    def begin_capture(self, stream: Stream) -> None:
        self._check(stream)
        if stream.capturing is not None:
            raise Misuse("the stream captures already")
        stream.capturing = []

    @_locked
    def end_capture(self, stream: Stream) -> Graph:
        self._check(stream)
        if stream.capturing is None:
            raise Misuse("the stream captures nothing")
        work, stream.capturing = stream.capturing, None
        return self._handle(HostGraph(work))

    @_locked
    def launch(self, graph: Graph, stream: Stream) -> None:
        self._check(graph)
        self.launches += 1
        for work in graph.work:
            self.queue(work, stream)
