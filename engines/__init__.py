"""ONNX in, predictions out: all that the vehicle needs, on numpy, msgspec and one runtime."""

from engines.backends import BACKENDS
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Flavour, Lowering, Manifest, OutputKind, Precision
from engines.schedules.anytime import Refinement
from engines.schedules.phases import PhaseGrid
from engines.schedules.schedule import Schedule
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
