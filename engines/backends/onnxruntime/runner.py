"""Graphs in ONNX Runtime, on any of its providers."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import functools
import io
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.failures import failure_of_runtime, imported_runtime
from engines.devices.base import TensorSpec
from engines.errors import BackendError
from engines.executors.runner import Array, Runner
from engines.schedules.schedule import Precision


class Provider(enum.Enum):
    """ONNX Runtime's execution providers that are supported."""

    CPU = "CPUExecutionProvider"
    CUDA = "CUDAExecutionProvider"


class OnnxRuntimeRunner(Runner):
    """Runs an ONNX file, or the bytes of one.

    Args:
        graph: path of the file, or its content.
        provider: what must do the work; another one is never used in its place.
        precision: of the network in the graph. On the CPU an int8 graph runs as it is written, without ONNX Runtime's
            optimizations: its integer kernels saturate on processors without VNNI, and then labels are wrong.
        arena: keep freed memory for the next tensors and runs. Without it the peak is less than half, and each run
            takes its memory anew from the system.
        weights: directory of the external data of a graph that is given as bytes.
        device_index: which GPU, in CUDA's order; without meaning on the CPU.
    """

    def __init__(
        self,
        graph: Path | bytes,
        provider: Provider = Provider.CPU,
        precision: Precision = Precision.FP32,
        *,
        arena: bool = False,
        weights: Path | None = None,
        device_index: int = 0,
    ) -> None:
        super().__init__()
        self._as_written = precision is Precision.INT8 and provider is Provider.CPU
        self._graph = graph
        self._weights = weights
        self._provider = provider
        self._arena = arena
        self._device_index = device_index
        self._session: Any = None

    def _activate(self) -> None:
        ort = import_onnxruntime()
        missing = _preload_cuda(ort) if self._provider is Provider.CUDA else ""
        options = ort.SessionOptions()
        # Errors come as exceptions, with the same words.
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = self._arena
        if self._as_written:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if self._weights is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(self._weights.resolve())
            )
        if self._provider is Provider.CPU and not self._arena:
            # A buffer that is planned for a later tensor of the same shape is held until then: every tensor gets
            # its own, and is freed after its last use.
            options.enable_mem_reuse = False
            _return_large_blocks()
        graph = self._graph if isinstance(self._graph, bytes) else str(self._graph)
        try:
            # Its fallback would try again with another provider, and print on stdout.
            session = ort.InferenceSession(graph, options, providers=[self._provided()], enable_fallback=0)
        except Exception as error:
            # ONNX Runtime's exceptions share no base but Exception.
            raise _error("cannot load", self._shown(), error) from error
        if session.get_providers()[0] != self._provider.value:
            # ONNX Runtime falls back to the CPU without a word.
            raise BackendError(
                f"ONNX Runtime cannot use {self._provider.value} here (active: {', '.join(session.get_providers())}); "
                f"{missing or 'smp-deploy doctor says what is missing'}"
            )
        self._session = session
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())

    def _close(self) -> None:
        self._session = None

    def _infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        try:
            results = self._session.run(names, dict(feed))
        except Exception as error:
            raise _error("failed in", self._shown(), error) from error
        return dict(zip(names, results, strict=True))

    def _provided(self) -> str | tuple[str, dict[str, int]]:
        """The provider and, on a GPU, which one."""
        name = self._provider.value
        return (name, {"device_id": self._device_index}) if self._provider is Provider.CUDA else name

    def _shown(self) -> str:
        return "the graph" if isinstance(self._graph, bytes) else str(self._graph)


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises :class:`MissingDependency`, :class:`BackendError` where it is there but broken."""
    return imported_runtime("onnxruntime", "ort")


@functools.cache
def _return_large_blocks() -> None:
    """Let glibc give freed blocks of 1 MiB and more back to the system, as it does at first.

    By itself it learns from freed blocks to keep larger ones, up to 32 MiB, where they lie scattered. This holds for
    the whole process; ``MALLOC_MMAP_THRESHOLD_`` in the environment has precedence, and other C libraries are left
    as they are.
    """
    if "MALLOC_MMAP_THRESHOLD_" in os.environ or platform.libc_ver()[0] != "glibc":
        return
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 2**20)


_M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h."""


def _preload_cuda(ort: Any) -> str:
    """Load CUDA's libraries from their Python packages; what ONNX Runtime prints about it, its first line."""
    if not hasattr(ort, "preload_dlls"):
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()
    return said.getvalue().partition("\n")[0]


_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
}


def _spec(value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, _DTYPES[value.type], shape)


_OUT_OF_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "cannot allocate memory",
    "out of memory",
    "cuda failure 2:",
)
"""What ONNX Runtime's CPU and CUDA allocators and its threads say, in lower case."""


def _error(what: str, where: str, error: Exception) -> BackendError:
    return failure_of_runtime(f"ONNX Runtime {what} {where}: {_first_line(error)}", error, _OUT_OF_MEMORY)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
