"""Backends: the runtimes that a session can use, one file or folder each.

A new one is a file with one :class:`~engines.backends.base.Backend` and an entry in :data:`BACKENDS`.
"""

from __future__ import annotations

from engines.backends.base import Backend
from engines.backends.onnxruntime.cpu import ONNXRUNTIME_CPU
from engines.backends.onnxruntime.cuda import ONNXRUNTIME_CUDA
from engines.backends.openvino import OPENVINO
from engines.backends.tensorrt.backend import TENSORRT, TENSORRT_RTX
from engines.errors import InputError

BACKENDS: tuple[Backend, ...] = (ONNXRUNTIME_CPU, ONNXRUNTIME_CUDA, OPENVINO, TENSORRT, TENSORRT_RTX)
"""All of them, in the order in which they are offered; the first is the default."""

DEFAULT_BACKEND = BACKENDS[0].name


def backend_named(backend: str | Backend) -> Backend:
    """The backend of a name of :data:`BACKENDS`, or the one that is given. Raises :class:`InputError`."""
    if isinstance(backend, Backend):
        return backend
    for known in BACKENDS:
        if known.name == backend:
            return known
    raise InputError(f"unknown backend {backend!r}; known are {', '.join(known.name for known in BACKENDS)}")
