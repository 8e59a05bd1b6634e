"""The backends ``tensorrt`` and ``tensorrt-rtx``: engines that were built before, on an NVIDIA GPU."""

from __future__ import annotations

from engines.backends.base import Backend, Kind, Support
from engines.backends.memory import DeviceMemoryModel
from engines.backends.tensorrt.flavours import PROPER, RTX, Flavour
from engines.backends.tensorrt.limits import MAX_ELEMENTS
from engines.backends.tensorrt.opening import executor_from_engine
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import EngineRecord
from engines.devices.gpus import gpu_title, gpus
from engines.devices.names import DeviceName
from engines.errors import MachineError, MissingEngine
from engines.executors.base import Executor
from engines.schedules.schedule import Precision, Schedule


class TensorRTBackend(Backend):
    """Engines of one flavour of TensorRT, in all precisions."""

    kind = Kind.GPU
    precisions = frozenset(Precision)
    memory = DeviceMemoryModel(largest_tensor=MAX_ELEMENTS)

    def __init__(self, flavour: Flavour, title: str) -> None:
        self.flavour = flavour
        self.name = flavour.name  # type: ignore[misc]
        self.title = title  # type: ignore[misc]
        self.extra = flavour.extra  # type: ignore[misc]
        # The extra is called as the package that it installs.
        self.packages = (flavour.extra,)  # type: ignore[misc]

    @property
    def needs_engines(self) -> bool:
        return True

    def schedules(self, bundle: Bundle, precision: Precision) -> list[Schedule]:
        """Those that the bundle has an engine for."""
        return [engine.schedule for engine in bundle.engines if self._serves(engine, precision)]

    def engine(self, bundle: Bundle, precision: Precision, schedule: Schedule) -> EngineRecord:
        """The bundle's engine of this use. Raises :class:`MissingEngine`, with the call that builds it."""
        for engine in bundle.engines:
            if self._serves(engine, precision) and engine.schedule == schedule:
                return engine
        held = "; ".join(f"{e.backend} {e.precision.value}, {e.schedule}" for e in bundle.engines)
        what = f"the bundle has no {self.name} engine in {precision.value} for {schedule} (it has: {held or 'none'})"
        raise MissingEngine(
            what,
            bundle.path,
            backend=self.name,
            precision=precision.value,
            levels=schedule.levels,
            lowering=schedule.lowering.value,
            sub_batch=schedule.sub_batch,
        )

    def device_title(self, device: DeviceName) -> str:
        return gpu_title(device.index)

    def runtime(self) -> str:
        return f"{self.flavour.module} {self.flavour.load().__version__}"

    def support(self) -> Support:
        """Whether engines can be built here; running them takes a GPU."""
        try:
            found = self.runtime()
        except MachineError as error:
            missing = Support.missing(error)
            hint = "" if self.flavour.portable else "; on Jetson and DRIVE it comes with the system"
            return Support(False, missing.found, missing.remedy + hint)
        if not self.flavour.portable and not gpus():
            return Support(False, f"{found}, but there is no GPU", "needs an NVIDIA GPU")
        return Support(True, found)

    def _open(
        self, bundle: Bundle, precision: Precision, schedule: Schedule, device: DeviceName, memory_bytes: int | None
    ) -> Executor:
        return executor_from_engine(
            bundle, self.engine(bundle, precision, schedule), self.flavour, device, memory_bytes
        )

    def _serves(self, engine: EngineRecord, precision: Precision) -> bool:
        return (engine.backend, engine.precision) == (self.name, precision)


TENSORRT = TensorRTBackend(PROPER, "build and run TensorRT engines")
TENSORRT_RTX = TensorRTBackend(RTX, "build and run TensorRT-RTX engines")
