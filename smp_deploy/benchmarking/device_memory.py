"""What is taken of a GPU's memory, by all that runs on it: asked of the driver, and watched while something works."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from engines.devices.cuda import CudaDevice, import_cuda
from engines.errors import BackendError, MachineError, MissingDependency

_EVERY_S = 0.001


@dataclass(frozen=True)
class Gauge:
    """Tells how much of the memory is taken."""

    name: str
    """What is asked."""
    used: Callable[[], int]
    """Bytes, of which only differences mean something."""
    sees_context: bool
    """Whether it can be asked before there is a CUDA context, so that the context's own memory shows."""

    def settled(self) -> int:
        """Bytes taken when what was closed is collected."""
        gc.collect()
        return self.used()


def gauge_of_gpu(index: int = 0) -> Gauge:
    """NVML, which answers without a context and without waiting for work; CUDA itself where there is no NVML.

    Raises :class:`~engines.errors.MachineError` where neither answers.
    """
    with suppress(MachineError):
        return _nvml_gauge(index)
    device = CudaDevice(index)

    def used() -> int:
        with device.current():
            return -device.free_bytes()

    used()
    return Gauge("cudaMemGetInfo", used, sees_context=False)


def _nvml_gauge(index: int) -> Gauge:
    try:
        import pynvml
    except ImportError as error:
        raise MissingDependency("nvidia-ml-py", "ort") from error
    place = pci_bus_id(index)

    def used() -> int:
        try:
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        except pynvml.NVMLError as error:
            raise BackendError(f"NVML does not say what is taken of the GPU's memory: {error}") from error

    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByPciBusId(place)
    except pynvml.NVMLError as error:
        raise BackendError(f"NVML does not know the GPU at {place}: {error}") from error
    used()
    return Gauge("NVML", used, sees_context=True)


def pci_bus_id(index: int) -> str:
    """Of a GPU in CUDA's order, which is not NVML's. No context is made."""
    try:
        _, driver = import_cuda()
    except MachineError as error:
        raise BackendError(str(error)) from error
    driver.cuInit(0)
    code, device = driver.cuDeviceGet(index)
    code, name = driver.cuDeviceGetPCIBusId(32, device) if not int(code) else (code, b"")
    if int(code):
        raise BackendError(f"CUDA does not say where the GPU {index} is (error {int(code)})")
    return bytes(name).split(b"\0")[0].decode()


@dataclass(frozen=True)
class Taken:
    """What a session took of a GPU's memory, in bytes."""

    session: int
    """At most, and given back: what a budget bounds."""
    stays: int
    """What stays when it is closed: the kernels that it loaded and, where it was the first and the gauge sees it, the
    context."""


class PeakWatch:
    """The most that was taken from the beginning until :meth:`stop`, asked every millisecond by a thread.

    What is taken for less than that may be missed. Without a gauge there is no peak.
    """

    def __init__(self, gauge: Gauge | None) -> None:
        self._gauge = gauge
        self._before = 0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self.peak: int | None = None

    def __enter__(self) -> PeakWatch:
        if self._gauge is not None:
            self._before = self._gauge.settled()
            self._ask(self._gauge)
            self._thread = threading.Thread(target=self._watch, args=(self._gauge,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask once more, and no further; harmless when called again."""
        thread, self._thread = self._thread, None
        if thread is not None and self._gauge is not None:
            self._stopped.set()
            thread.join()
            with suppress(BackendError):
                # A GPU whose work broke answers nothing; what broke is said elsewhere.
                self._ask(self._gauge)

    def taken(self) -> Taken | None:
        """By what was at work, which is closed now; ``None`` without a gauge."""
        if self._gauge is None or self.peak is None:
            return None
        stays = self._gauge.settled() - self._before
        return Taken(self.peak - self._before - stays, stays)

    def _watch(self, gauge: Gauge) -> None:
        with suppress(BackendError):
            while not self._stopped.wait(_EVERY_S):
                self._ask(gauge)

    def _ask(self, gauge: Gauge) -> None:
        used = gauge.used()
        self.peak = used if self.peak is None else max(self.peak, used)
