"""Which TensorRT: TensorRT proper or TensorRT-RTX. One code path serves both; what differs is stated here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engines.backends.failures import imported_runtime


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
        return imported_runtime(self.module, self.extra)


PROPER = Flavour("tensorrt", "tensorrt", "tensorrt", portable=False)
RTX = Flavour("tensorrt-rtx", "tensorrt_rtx", "tensorrt-rtx", portable=True)
