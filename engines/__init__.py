"""ONNX in, predictions out: all that the vehicle needs, on numpy, msgspec and one runtime."""

from engines.anytime import Refinement
from engines.backends import BACKENDS
from engines.bundle import Bundle
from engines.manifest import Flavour, Lowering, Manifest, OutputKind, Precision
from engines.phases import PhaseGrid
from engines.schedules import Schedule
from engines.session import Session

__all__ = [
    "BACKENDS",
    "Bundle",
    "Flavour",
    "Lowering",
    "Manifest",
    "OutputKind",
    "PhaseGrid",
    "Precision",
    "Refinement",
    "Schedule",
    "Session",
]
