"""ONNX in, predictions out: all that the vehicle needs, on numpy, msgspec and one runtime."""

from engines.backends import BACKENDS
from engines.bundle import Bundle
from engines.manifest import Flavour, Manifest, OutputKind, Precision
from engines.phases import PhaseGrid
from engines.session import Session

__all__ = ["BACKENDS", "Bundle", "Flavour", "Manifest", "OutputKind", "PhaseGrid", "Precision", "Session"]
