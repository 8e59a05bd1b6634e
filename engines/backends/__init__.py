"""Backends: the runtimes that a session can use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines.backends.base import Runner, TensorSpec
from engines.backends.onnxruntime import OnnxRuntimeRunner, Provider
from engines.bundle.manifest import Flavour, Precision
from engines.errors import InputError

__all__ = [
    "BACKENDS",
    "OnnxRuntimeRunner",
    "Provider",
    "Runner",
    "TensorSpec",
    "backend_of",
    "flavour_of",
    "runner_from_graph",
    "unproven",
]

_RUNNERS: dict[str, Callable[[Path, Precision], Runner]] = {
    "onnxruntime": lambda graph, precision: OnnxRuntimeRunner(graph, Provider.CPU, precision),
    "onnxruntime-cuda": lambda graph, precision: OnnxRuntimeRunner(graph, Provider.CUDA, precision),
}
_FLAVOURS = {"tensorrt": Flavour.TENSORRT, "tensorrt-rtx": Flavour.TENSORRT_RTX}

BACKENDS = (*_RUNNERS, *_FLAVOURS)
"""Names of the backends, for ``--backend``."""


def flavour_of(backend: str) -> Flavour | None:
    """The TensorRT whose engines a backend runs; ``None`` for one that runs graphs.

    Raises :class:`InputError` for an unknown name.
    """
    if backend not in BACKENDS:
        raise InputError(f"unknown backend {backend!r}; known are {', '.join(BACKENDS)}")
    return _FLAVOURS.get(backend)


def backend_of(flavour: Flavour) -> str:
    """The backend that runs the engines of a flavour."""
    return next(name for name, held in _FLAVOURS.items() if held is flavour)


def runner_from_graph(graph: Path, backend: str, precision: Precision = Precision.FP32) -> Runner:
    """An inactive runner of ``graph``, whose network computes in ``precision``, on ``backend``, one that runs graphs.

    Raises :class:`InputError`, and :class:`BackendError` for a precision that the backend has not.
    """
    if flavour_of(backend) is not None:
        raise InputError(f"the backend {backend} runs engines, not graphs")
    return _RUNNERS[backend](graph, precision)


def unproven(backend: str, precision: Precision) -> str | None:
    """Why a backend's results prove nothing of a precision although it runs it; ``None`` where they do."""
    if (backend, precision) != ("onnxruntime", Precision.FP16):
        return None
    return (
        "ONNX Runtime computes fp16 graphs in fp32 on a CPU and rounds nothing, so this proves nothing of fp16; "
        "a validation without a backend does: it writes the rounding into the graph"
    )
