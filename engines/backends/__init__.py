"""Backends: the runtimes that a session can use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines.backends.base import Runner, TensorSpec
from engines.backends.onnxruntime import OnnxRuntimeRunner, Provider
from engines.errors import InputError

__all__ = ["BACKENDS", "OnnxRuntimeRunner", "Provider", "Runner", "TensorSpec", "runner_from_graph"]

_RUNNERS: dict[str, Callable[[Path], Runner]] = {
    "onnxruntime": lambda graph: OnnxRuntimeRunner(graph, Provider.CPU),
    "onnxruntime-cuda": lambda graph: OnnxRuntimeRunner(graph, Provider.CUDA),
}

BACKENDS = tuple(_RUNNERS)
"""Names of the backends, for ``--backend``."""


def runner_from_graph(graph: Path, backend: str) -> Runner:
    """An inactive runner of ``graph`` on ``backend``. Raises :class:`InputError` for an unknown name."""
    if backend not in _RUNNERS:
        raise InputError(f"unknown backend {backend!r}; known are {', '.join(BACKENDS)}")
    return _RUNNERS[backend](graph)
