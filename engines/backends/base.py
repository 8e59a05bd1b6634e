"""What a backend is: one object that holds all that the project knows of a runtime.

Nothing outside asks which backend it has: it asks the object. ``engines/backends/__init__.py`` lists them, so a new one
is one file and one entry there.
"""

from __future__ import annotations

import abc
import enum
from dataclasses import dataclass
from typing import ClassVar

from engines.backends.memory import MemoryModel
from engines.bundle.bundle import Bundle
from engines.devices.names import DeviceName
from engines.errors import BackendError, InputError, MachineError, MissingDependency, install_command
from engines.executors.base import Executor
from engines.schedules.schedule import Precision, Schedule


class Kind(enum.Enum):
    """Where a backend computes, by the name of its devices."""

    CPU = "cpu"
    GPU = "cuda"


@dataclass(frozen=True)
class Support:
    """Whether a machine can use a backend."""

    available: bool
    found: str
    """What is there, with its version, or what is missing."""
    remedy: str = ""
    """How to get it, where it is missing."""

    @classmethod
    def missing(cls, error: MachineError) -> Support:
        """What an error says that importing a runtime raised."""
        if isinstance(error, MissingDependency):
            return cls(False, f"{error.package} is not installed", install_command(error.extra))
        return cls(False, str(error))


class Backend(abc.ABC):
    """A runtime that sessions can use.

    Subclasses state their facts as attributes and implement :meth:`runtime`, :meth:`support` and :meth:`_open`.
    """

    name: ClassVar[str]
    """What users call it: ``"onnxruntime"``."""
    title: ClassVar[str]
    """What it does, for a person: ``"run on the CPU (ONNX Runtime)"``."""
    kind: ClassVar[Kind]
    precisions: ClassVar[frozenset[Precision]]
    """Arithmetic that it can compute in, on a machine that has it; :meth:`refusal` asks this machine."""
    memory: ClassVar[MemoryModel]
    extra: ClassVar[str]
    """The extra of the package ``smp-deploy`` that installs it."""
    packages: ClassVar[tuple[str, ...]]
    """What its runtime is called on PyPI, whichever of them is installed."""

    @property
    def needs_engines(self) -> bool:
        """Whether it runs engines that were built before, and no graphs."""
        return False

    def refusal(self, precision: Precision) -> str | None:
        """Why it does not compute in a precision on this machine; ``None`` where it does.

        Raises :class:`MissingDependency` where the runtime must be asked and is not installed.
        """
        if precision in self.precisions:
            return None
        known = ", ".join(known.value for known in Precision if known in self.precisions)
        return f"{self.name} does not compute in {precision.value} (it has {known})"

    def unproven(self, precision: Precision) -> str | None:
        """Why its results prove nothing of a precision although it runs it; ``None`` where they do."""
        return None

    def check_precision(self, precision: Precision) -> None:
        """Raises :class:`BackendError`, with what :meth:`refusal` says."""
        if reason := self.refusal(precision):
            raise BackendError(reason)

    def graph_precision(self, precision: Precision) -> Precision:
        """Which of a bundle's graphs it runs to compute in a precision."""
        return precision.graph

    def schedules(self, bundle: Bundle, precision: Precision) -> list[Schedule]:
        """Every schedule that it can open: those of all trunks of a precision, or those of the engines."""
        manifest, graph = bundle.manifest, self.graph_precision(precision)
        trunks = (trunk for trunk in manifest.trunks if graph in trunk.graphs)
        return [schedule for trunk in trunks for schedule in manifest.schedules_of(trunk)]

    def device(self, wanted: str | DeviceName | None = None) -> DeviceName:
        """The device to use: the one named, or the first of its kind. Raises :class:`InputError` for another kind."""
        if wanted is None:
            return DeviceName(self.kind.value, 0)
        name = DeviceName.parse(wanted) if isinstance(wanted, str) else wanted
        if name.kind != self.kind.value:
            raise InputError(f'the backend {self.name} computes on {self.kind.value}; received device="{name}"')
        return name

    @abc.abstractmethod
    def device_title(self, device: DeviceName) -> str:
        """What a device is called: what a tuning and a benchmark hold for."""

    @abc.abstractmethod
    def runtime(self) -> str:
        """Name and version of the runtime. Raises :class:`MissingDependency`."""

    def support(self) -> Support:
        """Whether this machine has all that it needs. Nothing is computed."""
        try:
            return self._support()
        except MachineError as error:
            return Support.missing(error)

    def _support(self) -> Support:
        """What :meth:`support` finds where the runtime can be asked; what is raised here is what is missing."""
        return Support(True, self.runtime())

    def open(
        self,
        bundle: Bundle,
        precision: Precision,
        schedule: Schedule,
        device: str | DeviceName | None = None,
        *,
        memory_bytes: int | None = None,
    ) -> Executor:
        """Open a schedule that the bundle has a trunk, or an engine, for.

        Args:
            bundle: an open bundle.
            precision: one that the backend has here.
            schedule: what is walked.
            device: one of the backend's kind; its first by default.
            memory_bytes: what a GPU's runtime is held to, beyond the context and the loaded kernels. A CPU's cannot be.

        Raises:
            BundleError: the bundle has none.
            InputError: another kind of device.
            MachineError: the runtime is missing, lacks the precision, or refuses the work.
            OutOfMemory: the memory does not suffice.
            WorkFailed: the first run, where opening makes one, began and broke.
        """
        chosen = self.device(device)
        self.check_precision(precision)
        return self._open(bundle, precision, schedule, chosen, memory_bytes)

    @abc.abstractmethod
    def _open(
        self, bundle: Bundle, precision: Precision, schedule: Schedule, device: DeviceName, memory_bytes: int | None
    ) -> Executor:
        """Open on a device of the right kind, in a precision that it has."""

    def __str__(self) -> str:
        return self.name
