"""Backends: the runtimes that a session can use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines.backends.base import Runner, TensorSpec
from engines.backends.onnxruntime import OnnxRuntimeRunner, Provider
from engines.errors import InputError
from engines.manifest import Precision

__all__ = ["BACKENDS", "OnnxRuntimeRunner", "Provider", "Runner", "TensorSpec", "runner_from_graph"]

_RUNNERS: dict[str, Callable[[Path, Precision], Runner]] = {
    "onnxruntime": lambda graph, precision: OnnxRuntimeRunner(graph, Provider.CPU, precision),
    "onnxruntime-cuda": lambda graph, precision: OnnxRuntimeRunner(graph, Provider.CUDA, precision),
}

BACKENDS = tuple(_RUNNERS)
"""Names of the backends, for ``--backend``."""


def runner_from_graph(graph: Path, backend: str, precision: Precision = Precision.FP32) -> Runner:
    """An inactive runner of ``graph``, whose network computes in ``precision``, on ``backend``.

    Raises :class:`InputError` for an unknown name, and :class:`BackendError` for a precision that the backend has not.
    """
    if backend not in _RUNNERS:
        raise InputError(f"unknown backend {backend!r}; known are {', '.join(BACKENDS)}")
    return _RUNNERS[backend](graph, precision)
