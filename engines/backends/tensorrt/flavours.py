"""Which TensorRT: TensorRT proper or TensorRT-RTX. One code path serves both; what differs is stated here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from engines.errors import BackendError, MissingDependency


@dataclass(frozen=True)
class Flavour:
    """A TensorRT that builds and runs engines."""

    name: str
    """What users call it."""
    module: str
    """Its Python module."""
    extra: str
    portable: bool
    """Its engines are compiled on the GPU that they meet: they are built anywhere, with or without a GPU, and building
    times nothing."""

    def load(self) -> Any:
        """Its Python module.

        Raises :class:`MissingDependency`, or :class:`BackendError` for one that is installed but broken.
        """
        try:
            return importlib.import_module(self.module)
        except ModuleNotFoundError as error:
            if error.name != self.module:
                raise BackendError(f"{self.module} is installed but cannot be loaded: {error}") from error
            raise MissingDependency(self.module, self.extra) from error
        except (ImportError, OSError) as error:
            raise BackendError(f"{self.module} is installed but cannot be loaded: {error}") from error


PROPER = Flavour("tensorrt", "tensorrt", "tensorrt", portable=False)
RTX = Flavour("tensorrt-rtx", "tensorrt_rtx", "tensorrt-rtx", portable=True)
