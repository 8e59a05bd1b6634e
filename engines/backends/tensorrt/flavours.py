"""Which TensorRT is at hand."""

from __future__ import annotations

import importlib
from typing import Any

from engines.bundle.manifest import Flavour
from engines.errors import BackendError, MissingDependency

_EXTRAS = {Flavour.TENSORRT: "tensorrt", Flavour.TENSORRT_RTX: "tensorrt-rtx"}


def import_tensorrt(flavour: Flavour | None = None) -> tuple[Flavour, Any]:
    """A flavour and its Python module: the one asked for, else TensorRT proper, else TensorRT-RTX.

    Raises :class:`MissingDependency`, or :class:`BackendError` for one that is installed but broken.
    """
    wanted = tuple(Flavour) if flavour is None else (flavour,)
    for candidate in wanted:
        try:
            return candidate, importlib.import_module(candidate.value)
        except ModuleNotFoundError as error:
            if error.name != candidate.value:
                raise BackendError(f"{candidate.value} is installed but cannot be loaded: {error}") from error
        except (ImportError, OSError) as error:
            raise BackendError(f"{candidate.value} is installed but cannot be loaded: {error}") from error
    names = " or ".join(candidate.value for candidate in wanted)
    raise MissingDependency(f"TensorRT ({names})" if flavour is None else names, _EXTRAS[wanted[-1]])
