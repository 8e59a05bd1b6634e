"""Backends: the runtimes that a session can use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines.backends.base import Runner, TensorSpec
from engines.backends.onnxruntime import OnnxRuntimeRunner, Provider
from engines.errors import InputError
from engines.manifest import Flavour

__all__ = ["BACKENDS", "OnnxRuntimeRunner", "Provider", "Runner", "TensorSpec", "flavour_of", "runner_from_graph"]

_RUNNERS: dict[str, Callable[[Path], Runner]] = {
    "onnxruntime": lambda graph: OnnxRuntimeRunner(graph, Provider.CPU),
    "onnxruntime-cuda": lambda graph: OnnxRuntimeRunner(graph, Provider.CUDA),
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


def runner_from_graph(graph: Path, backend: str) -> Runner:
    """An inactive runner of ``graph`` on ``backend``, one that runs graphs. Raises :class:`InputError`."""
    if flavour_of(backend) is not None:
        raise InputError(f"the backend {backend} runs engines, not graphs")
    return _RUNNERS[backend](graph)
