"""What a device is, as thin as a runtime for phases allows: everything above it runs on any implementation."""

from __future__ import annotations

import abc
import ctypes
import enum
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Stream: TypeAlias = Any
Event: TypeAlias = Any
Graph: TypeAlias = Any
"""Handles that only their device understands."""

ALIGNMENT = 256
"""Bytes: what engines want of their memory, and every device's ``allocate`` gives."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: ``None`` in the shape stands for any size."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]

    def admits(self, array: NDArray[np.generic]) -> bool:
        """Whether ``array`` has this dtype and fits this shape."""
        return array.dtype == self.dtype and self.admits_shape(array.shape)

    def admits_shape(self, shape: tuple[int, ...]) -> bool:
        """Whether it may be of this shape."""
        return len(shape) == len(self.shape) and all(
            want is None or want == have for want, have in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class Box:
    """Where bytes lie that are copied as a box: some planes of some rows, each row in one piece.

    A step from plane to plane is a whole number of rows, which is how CUDA wants it.
    """

    address: int
    """Of the first byte of the first row of the first plane."""
    pitch: int
    """Bytes from row to row."""
    rows: int
    """Rows from plane to plane, at least those that are copied."""


class Copies(enum.Enum):
    """From where to where a copy goes. Host memory is pinned memory, or the copy would not be asynchronous."""

    TO_DEVICE = "to device"
    TO_HOST = "to host"
    ON_DEVICE = "on device"


class Device(abc.ABC):
    """One device. Addresses are integers; sizes are bytes.

    All calls, and those of engines on the device, are made inside ``with device.current():``, from any thread. Whoever
    allocates frees: an executor keeps everything on one stack. Every call raises
    :class:`~engines.errors.BackendError` when the device refuses it, and :class:`~engines.errors.OutOfMemory` when
    that is for want of memory.
    """

    name: str
    """What the maker calls it."""

    @abc.abstractmethod
    def current(self) -> AbstractContextManager[None]:
        """The calling thread works on this device inside, and on the one before afterwards. May be nested."""

    @abc.abstractmethod
    def allocate(self, size: int) -> int:
        """Device memory, aligned to :data:`ALIGNMENT`."""

    @abc.abstractmethod
    def free(self, address: int) -> None:
        """Give device memory back."""

    @abc.abstractmethod
    def allocate_pinned(self, size: int) -> int:
        """Host memory that copies reach while the host goes on."""

    @abc.abstractmethod
    def free_pinned(self, address: int) -> None:
        """Give pinned memory back."""

    @abc.abstractmethod
    def free_bytes(self) -> int:
        """Device memory that nobody has taken."""

    @abc.abstractmethod
    def copy(self, to: int, source: int, size: int, kind: Copies, stream: Stream) -> None:
        """Queue a copy of ``size`` bytes."""

    @abc.abstractmethod
    def copy_box(self, to: Box, source: Box, size: tuple[int, int, int], stream: Stream) -> None:
        """Queue a copy on the device of ``size`` (planes, rows, bytes of a row)."""

    @abc.abstractmethod
    def create_stream(self) -> Stream:
        """A queue of work: in order within itself, independent of other streams."""

    @abc.abstractmethod
    def destroy_stream(self, stream: Stream) -> None:
        """Give a stream back."""

    @abc.abstractmethod
    def synchronize(self, stream: Stream) -> None:
        """Wait until everything queued on the stream is done."""

    @abc.abstractmethod
    def create_event(self) -> Event:
        """A mark in a stream. One that was never recorded counts as passed."""

    @abc.abstractmethod
    def destroy_event(self, event: Event) -> None:
        """Give an event back."""

    @abc.abstractmethod
    def record(self, event: Event, stream: Stream) -> None:
        """Put the mark behind everything queued on the stream so far."""

    @abc.abstractmethod
    def wait(self, event: Event) -> None:
        """The calling thread waits until the mark is passed."""

    @abc.abstractmethod
    def stream_wait(self, stream: Stream, event: Event) -> None:
        """What is queued on ``stream`` from now on waits until the mark is passed."""

    @abc.abstractmethod
    def elapsed_ms(self, start: Event, end: Event) -> float:
        """Milliseconds between two marks that are passed."""

    @abc.abstractmethod
    def begin_capture(self, stream: Stream) -> None:
        """From now on, what is queued on the stream is kept and not done."""

    @abc.abstractmethod
    def end_capture(self, stream: Stream) -> Graph:
        """What was kept, ready to be launched as a whole; capturing ends, whether that succeeds or not."""

    @abc.abstractmethod
    def launch(self, graph: Graph, stream: Stream) -> None:
        """Queue what was captured."""

    @abc.abstractmethod
    def destroy_graph(self, graph: Graph) -> None:
        """Give a graph back."""


class Execution(abc.ABC):
    """An engine at fixed shapes. It uses memory that it is lent, never in parallel with others that use it."""

    memory_size: int
    """Bytes of device memory to lend; 0 where the engine manages its own."""
    outputs: Mapping[str, tuple[int, ...]]
    """Shapes by name."""

    @abc.abstractmethod
    def bind(self, addresses: Mapping[str, int], memory: int, memory_size: int) -> None:
        """Say where inputs and outputs lie on the device, and which memory to use, once."""

    @abc.abstractmethod
    def enqueue(self, stream: Stream) -> None:
        """Queue one run on the stream that the engine was opened for."""

    @abc.abstractmethod
    def uncapturable(self, stream: Stream) -> str:
        """Why this must not be captured in a graph of the device; empty where it may be."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give it back; the engine must still be open."""


class DeviceEngine(abc.ABC):
    """A network on a device, which reads and writes device memory, on one stream.

    Some runtimes want to know the stream when they load a network, so an engine is opened for one (:data:`OpenEngine`).
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abc.abstractmethod
    def execution(self, shapes: Mapping[str, tuple[int, ...]]) -> Execution:
        """The engine at these shapes of its inputs. Raises :class:`~engines.errors.BackendError`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Give its memory back; harmless on a closed engine."""


OpenEngine: TypeAlias = Callable[[Stream], DeviceEngine]
"""Opens an engine whose work is queued on this stream, on the device that is current."""


def pinned_array(address: int, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A view of pinned memory as an array; it must not be used after the memory is freed."""
    size = int(np.prod(shape)) * dtype.itemsize
    content = (ctypes.c_uint8 * size).from_address(address)
    view: NDArray[Any] = np.ctypeslib.as_array(content).view(dtype).reshape(shape)
    return view
