"""ONNX Runtime: the embedded default on a CPU, the reference for graphs, a second opinion on a GPU."""

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

from engines.backends.base import Array, Runner, TensorSpec
from engines.errors import BackendError, MissingDependency


class Provider(enum.Enum):
    """ONNX Runtime's execution providers that are supported."""

    CPU = "CPUExecutionProvider"
    CUDA = "CUDAExecutionProvider"


class OnnxRuntimeRunner(Runner):
    """Runs an ONNX file, or the bytes of one without external data.

    Args:
        graph: path of the file, or its content.
        provider: what must do the work; another one is never used in its place.
        arena: keep freed memory for the next tensors and runs. Without it the peak is less than half, and each run
            takes its memory anew from the system.
    """

    def __init__(self, graph: Path | bytes, provider: Provider = Provider.CPU, *, arena: bool = False) -> None:
        super().__init__()
        self._graph = graph
        self._provider = provider
        self._arena = arena
        self._session: Any = None

    def _activate(self) -> None:
        ort = import_onnxruntime()
        missing = _preload_cuda(ort) if self._provider is Provider.CUDA else ""
        options = ort.SessionOptions()
        # Errors come as exceptions, with the same words.
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = self._arena
        if self._provider is Provider.CPU and not self._arena:
            # A buffer that is planned for a later tensor of the same shape is held until then: every tensor gets
            # its own, and is freed after its last use.
            options.enable_mem_reuse = False
            _return_large_blocks()
        graph = self._graph if isinstance(self._graph, bytes) else str(self._graph)
        try:
            session = ort.InferenceSession(graph, options, providers=[self._provider.value])
        except Exception as error:
            # ONNX Runtime's exceptions share no base but Exception.
            raise BackendError(f"ONNX Runtime cannot load {self._shown()}: {_first_line(error)}") from error
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
            raise BackendError(f"ONNX Runtime failed in {self._shown()}: {_first_line(error)}") from error
        return dict(zip(names, results, strict=True))

    def _shown(self) -> str:
        return "the graph" if isinstance(self._graph, bytes) else str(self._graph)


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises :class:`MissingDependency`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependency("onnxruntime", "ort") from error
    return onnxruntime


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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
