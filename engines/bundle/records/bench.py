"""The record of a measurement of time and memory."""

from __future__ import annotations

import msgspec

from engines.bundle.records.codec import Count, Record
from engines.schedules.schedule import Precision, Schedule


class Latency(Record, frozen=True, kw_only=True):
    """Of a frame, in milliseconds."""

    min: float
    max: float
    mean: float
    median: float
    percentiles: dict[str, float]
    """By their names, ``"99"``."""


class BenchLength(Record, frozen=True, kw_only=True):
    """How long was measured, at least."""

    warm_up_ms: float
    duration_s: float
    iterations: Count


class Throughput(Record, frozen=True, kw_only=True):
    """Of frames one after the other."""

    frames_per_s: float
    megapixels_per_s: float


class Rearrangement(Record, frozen=True, kw_only=True):
    """Cutting windows and merging predictions, of one frame."""

    ms: float
    share: float
    """Of the median latency."""


class DeviceMemory(Record, frozen=True, kw_only=True):
    """What a fresh process took of a GPU's memory."""

    session_bytes: Count
    """At most, by its session: what a budget bounds."""
    context_bytes: Count
    """What stays when the session is closed: CUDA's context and the loaded kernels, or the kernels alone where
    :attr:`measured_by` does not see the context."""
    measured_by: str
    """``"NVML"``, which counts all processes on the GPU, or ``"cudaMemGetInfo"``."""


class PeakMemory(Record, frozen=True, kw_only=True):
    """The peak of a fresh process; either figures or the reason why there are none."""

    above_empty_process_bytes: Count | None = None
    process_bytes: Count | None = None
    device: DeviceMemory | None = None
    """``None`` on a CPU, and where nothing measures it."""
    budget_bytes: Count | None = None
    """What was asked for: of the process on a CPU, of the device on a GPU."""
    not_measured: str = ""

    @property
    def bounded_bytes(self) -> int | None:
        """What a budget bounds: of the device where that was measured, else of the process."""
        return self.process_bytes if self.device is None else self.device.session_bytes

    @property
    def over_budget(self) -> bool:
        """Whether more was taken than the budget."""
        taken, budget = self.bounded_bytes, self.budget_bytes
        return taken is not None and budget is not None and taken > budget


class BenchMachine(Record, frozen=True, kw_only=True):
    """What a measurement was made with."""

    device: str
    runtime: str
    smp_deploy: str = msgspec.field(name="smp-deploy")
    python: str
    system: str
    machine: str
    """The processor's architecture and cores."""
    instructions: str
    """Its vector extensions that matter to speed, as Linux names them, such as ``avx2, avx512f``."""
    memory: str


class BenchRecord(Record, frozen=True, kw_only=True):
    """One measurement of ``bench``."""

    network: str
    size: tuple[Count, Count]
    """Height and width of the frames."""
    backend: str
    precision: Precision
    schedule: Schedule
    reason: str
    """Why this schedule."""
    length: BenchLength
    iterations: Count
    """Frames that were measured."""
    latency_ms: Latency
    throughput: Throughput
    rearrangement: Rearrangement | None
    """``None`` where it is part of the device's work."""
    memory: PeakMemory
    machine: BenchMachine
    files: dict[str, str]
    """SHA-256 of ``manifest.json`` and of what ran: what it is bound to."""

    @property
    def use(self) -> tuple[str, str, Precision, Schedule]:
        """What the measurement is of; a bundle keeps one for each use."""
        return self.machine.device, self.backend, self.precision, self.schedule
