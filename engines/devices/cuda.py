"""CUDA through ``cuda.bindings``, of cuda-bindings 12 and 13. Only what NVIDIA's own calls do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from engines.devices.base import Box, Copies, Device, Event, Graph, Stream
from engines.devices.gpus import gpus
from engines.devices.names import DeviceName
from engines.errors import BackendError, MissingDependency, OutOfMemory

_OUT_OF_MEMORY, _NO_DRIVER, _NO_DEVICE = 2, 35, 100
"""``cudaErrorMemoryAllocation``, ``cudaErrorInsufficientDriver``, ``cudaErrorNoDevice``; the driver's 2 and 100 too."""


def import_cuda(extra: str = "tensorrt") -> tuple[Any, Any]:
    """The modules ``cuda.bindings.runtime`` and ``cuda.bindings.driver``.

    Raises :class:`MissingDependency`, with the extra that brings them to whoever asks.
    """
    try:
        from cuda.bindings import driver, runtime
    except ImportError as error:
        raise MissingDependency("cuda-bindings", extra) from error
    return runtime, driver


class CudaDevice(Device):
    """A GPU by its number among those that CUDA shows: ``cuda:0``, ``cuda:1``, ...

    Raises :class:`BackendError` where there is no driver or no such GPU, with those that there are, and
    :class:`MissingDependency` without cuda-bindings.
    """

    def __init__(self, index: int = 0, extra: str = "tensorrt") -> None:
        self._cuda, self._driver = import_cuda(extra)
        self.index = index
        if index >= self._call("cudaGetDeviceCount"):
            raise no_such_gpu(index, [gpu.name for gpu in gpus()])
        name = self._call("cudaGetDeviceProperties", index).name
        self.name = name.decode(errors="replace").rstrip("\0") if isinstance(name, bytes) else str(name)
        # The context that CUDA's runtime and the libraries on it use too. Like theirs, it lasts as long as the process.
        self._context = self._call("cuDevicePrimaryCtxRetain", self._call("cuDeviceGet", index))
        kinds = self._cuda.cudaMemcpyKind
        self._kinds = {
            Copies.TO_DEVICE: kinds.cudaMemcpyHostToDevice,
            Copies.TO_HOST: kinds.cudaMemcpyDeviceToHost,
            Copies.ON_DEVICE: kinds.cudaMemcpyDeviceToDevice,
        }

    @contextmanager
    def current(self) -> Iterator[None]:
        # cudaSetDevice would have to be undone, and undoing it makes a context on a GPU that nobody may have used.
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        except BaseException:
            # After an error of the work this may fail too; what broke first is what is said.
            with suppress(BackendError):
                self._call("cuCtxPopCurrent")
            raise
        self._call("cuCtxPopCurrent")

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", size, doing=f"{size} bytes of device memory"))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def allocate_pinned(self, size: int) -> int:
        flags = self._cuda.cudaHostAllocDefault
        return int(self._call("cudaHostAlloc", size, flags, doing=f"{size} bytes of pinned host memory"))

    def free_pinned(self, address: int) -> None:
        self._call("cudaFreeHost", address)

    def free_bytes(self) -> int:
        free, _ = self._call("cudaMemGetInfo")
        return int(free)

    def copy(self, to: int, source: int, size: int, kind: Copies, stream: Stream) -> None:
        self._call("cudaMemcpyAsync", to, source, size, self._kinds[kind], stream)

    def copy_box(self, to: Box, source: Box, size: tuple[int, int, int], stream: Stream) -> None:
        planes, rows, width = size
        parameters = self._cuda.cudaMemcpy3DParms()
        parameters.dstPtr = self._cuda.make_cudaPitchedPtr(to.address, to.pitch, width, to.rows)
        parameters.srcPtr = self._cuda.make_cudaPitchedPtr(source.address, source.pitch, width, source.rows)
        parameters.extent = self._cuda.make_cudaExtent(width, rows, planes)
        parameters.kind = self._kinds[Copies.ON_DEVICE]
        self._call("cudaMemcpy3DAsync", parameters, stream)

    def create_stream(self) -> Stream:
        # Without the flag it would wait for the legacy default stream, which other libraries use.
        return self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)

    def destroy_stream(self, stream: Stream) -> None:
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: Stream) -> None:
        self._call("cudaStreamSynchronize", stream)

    def create_event(self) -> Event:
        return self._call("cudaEventCreate")

    def destroy_event(self, event: Event) -> None:
        self._call("cudaEventDestroy", event)

    def record(self, event: Event, stream: Stream) -> None:
        self._call("cudaEventRecord", event, stream)

    def wait(self, event: Event) -> None:
        self._call("cudaEventSynchronize", event)

    def stream_wait(self, stream: Stream, event: Event) -> None:
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def elapsed_ms(self, start: Event, end: Event) -> float:
        return float(self._call("cudaEventElapsedTime", start, end))

    def begin_capture(self, stream: Stream) -> None:
        # Thread-local: allocations of other threads do not spoil the capture.
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Stream) -> Graph:
        captured = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", captured, 0)
        finally:
            self._call("cudaGraphDestroy", captured)

    def launch(self, graph: Graph, stream: Stream) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Graph) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any, doing: str = "") -> Any:
        """Call the runtime or the driver and check the error code; the one result, or all of them."""
        module = self._cuda if name.startswith("cuda") else self._driver
        try:
            code, *results = getattr(module, name)(*arguments)
        except RuntimeError as error:
            # cuda-bindings 12 raises where there is no driver; 13 gives error 35.
            raise BackendError(f"there is no NVIDIA driver on this machine: {error}") from error
        if int(code):
            raise self._error(name, code, doing)
        return results[0] if len(results) == 1 else tuple(results)

    def _error(self, name: str, code: Any, doing: str) -> BackendError:
        number = int(code)
        of_runtime = name.startswith("cuda")
        if of_runtime:
            # Or the next library that asks for the last error finds this one.
            self._cuda.cudaGetLastError()
        if number == _NO_DRIVER:
            return BackendError("there is no NVIDIA driver on this machine, or it is too old for this CUDA (error 35)")
        if number == _NO_DEVICE:
            return BackendError("there is no NVIDIA GPU on this machine (error 100)")
        if number == _OUT_OF_MEMORY:
            return OutOfMemory(f"the GPU has no room for {doing or f'what {name} needs'}")
        _, text = self._cuda.cudaGetErrorString(code) if of_runtime else self._driver.cuGetErrorString(code)
        shown = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        return BackendError(f"CUDA refuses {name}: {shown} (error {number})")


def no_such_gpu(index: int, names: Sequence[str]) -> BackendError:
    """What is said of a GPU that is not there, where GPUs of these names are."""
    if not names:
        return BackendError("there is no NVIDIA GPU on this machine")
    there = ", ".join(f"{DeviceName('cuda', number)} ({name})" for number, name in enumerate(names))
    return BackendError(f"there is no {DeviceName('cuda', index)} on this machine; there is {there}")
