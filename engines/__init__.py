"""ONNX in, predictions out: all that the vehicle needs, on numpy, msgspec and one runtime."""

from engines.backends import BACKENDS
from engines.backends.base import Backend
from engines.backends.tensorrt.builder import BuildListener
from engines.backends.tensorrt.settings import BuildOptions, HardwareCompatibility, MemoryPool
from engines.building import EngineBuild, build_engine
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Manifest, OutputKind
from engines.planning.choice import ChosenSchedule, choose_schedule
from engines.planning.planner import Plan, plan
from engines.proof import prove
from engines.schedules.anytime import Refinement
from engines.schedules.phases import PhaseGrid
from engines.schedules.schedule import Lowering, Precision, Schedule
from engines.session import Session

__all__ = [
    "BACKENDS",
    "Backend",
    "BuildListener",
    "BuildOptions",
    "Bundle",
    "ChosenSchedule",
    "EngineBuild",
    "HardwareCompatibility",
    "Lowering",
    "Manifest",
    "MemoryPool",
    "OutputKind",
    "PhaseGrid",
    "Plan",
    "Precision",
    "Refinement",
    "Schedule",
    "Session",
    "build_engine",
    "choose_schedule",
    "plan",
    "prove",
]
