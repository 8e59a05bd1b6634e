"""Opening graphs in ONNX Runtime, on any of its providers: the one place that makes its sessions."""

from __future__ import annotations

import contextlib
import ctypes
import enum
import functools
import io
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.failures import failure_of_runtime, imported_runtime
from engines.devices.base import TensorSpec
from engines.errors import BackendError


class Provider(enum.Enum):
    """ONNX Runtime's execution providers that are supported."""

    CPU = "CPUExecutionProvider"
    CUDA = "CUDAExecutionProvider"


def open_session(
    graph: Path | bytes,
    provider: Provider = Provider.CPU,
    provider_options: Mapping[str, str] | None = None,
    *,
    as_written: bool = False,
    arena: bool = False,
    weights: Path | None = None,
) -> Any:
    """An ``InferenceSession`` of an ONNX file, or of the bytes of one.

    Args:
        graph: path of the file, or its content.
        provider: what must do the work; another one is never used in its place.
        provider_options: of the provider, in ONNX Runtime's words.
        as_written: without ONNX Runtime's optimizations.
        arena: keep freed memory of the CPU for the next tensors and runs. Without it the peak is less than half, and
            each run takes its memory anew from the system.
        weights: directory of the external data of a graph that is given as bytes.

    Raises:
        MissingDependency: there is no ONNX Runtime.
        OutOfMemory: the memory does not suffice.
        BackendError: it does not load the graph, or has no such provider here.
    """
    ort = import_onnxruntime()
    missing = _prepared_for_cuda(ort) if provider is Provider.CUDA else ""
    options = ort.SessionOptions()
    # Tensors that are planned from the second run on would lie beside those of the first.
    options.enable_mem_pattern = provider is Provider.CPU
    # Errors come as exceptions, with the same words.
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = arena
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if weights is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.resolve()))
    if provider is Provider.CPU and not arena:
        # A buffer that is planned for a later tensor of the same shape is held until then: every tensor gets
        # its own, and is freed after its last use.
        options.enable_mem_reuse = False
        _return_large_blocks()
    providers = [(provider.value, dict(provider_options or {}))]
    content = graph if isinstance(graph, bytes) else str(graph)
    try:
        # Its fallback would try again with another provider, and print on stdout.
        session = ort.InferenceSession(content, options, providers=providers, enable_fallback=0)
    except Exception as error:
        # ONNX Runtime's exceptions share no base but Exception.
        raise error_of("cannot load", graph, error) from error
    if session.get_providers()[0] != provider.value:
        # ONNX Runtime falls back to the CPU without a word.
        raise BackendError(
            f"ONNX Runtime cannot use {provider.value} here (active: {', '.join(session.get_providers())}); "
            f"{missing or 'smp-deploy doctor says what is missing'}"
        )
    return session


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


def _prepared_for_cuda(ort: Any) -> str:
    """Load CUDA's libraries from their Python packages; what ONNX Runtime prints about it, its first line."""
    # Beside the sessions' own logs: every fusion that cuDNN has no kernel for is an error there, and then done without.
    ort.set_default_logger_severity(4)
    if not hasattr(ort, "preload_dlls"):
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        ort.preload_dlls()
    return said.getvalue().partition("\n")[0]


_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
}


def specs_of(graph: Path | bytes, values: Iterable[Any]) -> tuple[TensorSpec, ...]:
    """Of the inputs or the outputs of a session. Raises :class:`BackendError` for a type that no graph of ours has."""
    return tuple(_spec(graph, value) for value in values)


def _spec(graph: Path | bytes, value: Any) -> TensorSpec:
    if value.type not in _DTYPES:
        raise BackendError(f"{_name(graph)} cannot be used: {value.name} is a {value.type} there")
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, _DTYPES[value.type], shape)


_OUT_OF_MEMORY = (
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "cannot allocate memory",
    "out of memory",
    "cuda failure 2:",
    "is smaller than requested bytes",
    "alloc_failed",
)
"""What ONNX Runtime's CPU and CUDA allocators and its threads say, in lower case."""


def error_of(what: str, graph: Path | bytes, error: Exception) -> BackendError:
    """The error to raise for one that ONNX Runtime raised when it did something with a graph."""
    return failure_of_runtime(f"ONNX Runtime {what} {_name(graph)}: {_first_line(error)}", error, _OUT_OF_MEMORY)


def _name(graph: Path | bytes) -> str:
    return "the graph" if isinstance(graph, bytes) else str(graph)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
