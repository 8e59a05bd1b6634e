"""Device memory for a runtime that asks for it tensor by tensor: one block, cut as it asks.

ONNX Runtime's own arena takes a region from the device for each size that it meets and never joins two: a network whose
tensors grow from layer to layer holds all of the smaller ones beside the largest (744 MiB where 408 are alive, SMP-18
at 1024x2048). Here neighbours that are free are one, and whoever asks gets the smallest that suffices.
"""

from __future__ import annotations

import bisect
import ctypes
import threading
from typing import Any

from engines.devices.base import ALIGNMENT, Device
from engines.errors import BackendError


class Arena:
    """Memory of a device. Everything is to be called where the device is current, but for what :meth:`options` gives.

    The work that uses it is in order on one stream: so memory that is given back may be given out again at once,
    although the work that used it is still to be done.

    Args:
        device: whose memory.
        block: bytes to take at first, with the first request.
        limit: bytes to take at most; ``None`` for no limit. What is asked for beyond it is given, since a runtime may
            not expect to be refused, and :attr:`refused` says so.
    """

    def __init__(self, device: Device, block: int, limit: int | None = None) -> None:
        self._device = device
        self._limit = limit
        self._lock = threading.Lock()
        self._free: list[tuple[int, int]] = []
        """Address and size, by address; no two are neighbours, except across blocks."""
        self._held: dict[int, int] = {}
        """Sizes by address, of what is given out."""
        self._blocks: list[int] = []
        """Their addresses."""
        self.taken = 0
        """Bytes of all blocks."""
        self.refused = 0
        """Bytes by which the limit was passed at most; 0 for never."""
        self._callbacks: dict[str, Any] = {}
        self._block = block

    def allocate(self, size: int) -> int:
        """Memory aligned to :data:`ALIGNMENT`. Raises :class:`OutOfMemory` when the device has none."""
        wanted = _aligned(size)
        with self._lock:
            if not self._blocks and self._block > wanted:
                self._take(_aligned(self._block))
            fitting = [(length, address) for address, length in self._free if length >= wanted]
            if not fitting:
                self._take(wanted)
                fitting = [(wanted, self._blocks[-1])]
            length, address = min(fitting)
            index = bisect.bisect_left(self._free, (address, 0))
            rest = [(address + wanted, length - wanted)] if length > wanted else []
            self._free[index : index + 1] = rest
            self._held[address] = wanted
            return address

    def free(self, address: int) -> None:
        """Give back what :meth:`allocate` gave."""
        with self._lock:
            start, size = address, self._held.pop(address)
            index = bisect.bisect_left(self._free, (address, 0))
            after = self._free[index : index + 1]
            before = self._free[index - 1 : index] if index else []
            joined = slice(index, index)
            if after and start + size == after[0][0] and after[0][0] not in self._blocks:
                size, joined = size + after[0][1], slice(joined.start, index + 1)
            if before and sum(before[0]) == start and start not in self._blocks:
                start, size = before[0][0], before[0][1] + size
                joined = slice(index - 1, joined.stop)
            self._free[joined] = [(start, size)]

    def provider_options(self) -> dict[str, str]:
        """How ONNX Runtime's CUDA provider is told to ask here. The arena must live as long as a session uses it."""
        if not self._callbacks:
            self._callbacks = {
                "alloc": _ALLOCATE(self._allocate_or_null),
                "free": _FREE(self._free_or_ignore),
                "empty_cache": _EMPTY(lambda: None),
            }
        return {
            f"gpu_external_{name}": str(ctypes.cast(function, ctypes.c_void_p).value)
            for name, function in self._callbacks.items()
        }

    def close(self) -> None:
        """Give all blocks back; harmless when called again."""
        while self._blocks:
            self._device.free(self._blocks.pop())
        self._free.clear()
        self.taken = 0

    def _take(self, size: int) -> None:
        address = self._device.allocate(size)
        self._blocks.append(address)
        bisect.insort(self._free, (address, size))
        self.taken += size
        if self._limit is not None:
            self.refused = max(self.refused, self.taken - self._limit)

    def _allocate_or_null(self, size: int) -> int | None:
        """Called by the runtime, from any thread. No exception can pass it."""
        try:
            with self._device.current():
                return self.allocate(size)
        except BackendError:
            return None

    def _free_or_ignore(self, address: int | None) -> None:
        """Called by the runtime, also after its session is gone."""
        if address in self._held:
            self.free(address)


_ALLOCATE: Any = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)
_FREE: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_EMPTY: Any = ctypes.CFUNCTYPE(None)
"""``void* (size_t)``, ``void (void*)`` and ``void ()``."""


def _aligned(size: int) -> int:
    return -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
