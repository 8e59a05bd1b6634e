"""The record of a measurement of time and memory."""

from __future__ import annotations

import msgspec

from engines.bundle.records.codec import Record
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
    iterations: int


class Throughput(Record, frozen=True, kw_only=True):
    """Of frames one after the other."""

    frames_per_s: float
    megapixels_per_s: float


class Rearrangement(Record, frozen=True, kw_only=True):
    """Cutting windows and merging predictions, of one frame."""

    ms: float
    share: float
    """Of the median latency."""


class PeakMemory(Record, frozen=True, kw_only=True):
    """The peak of a fresh process; either both figures or the reason why there are none."""

    above_empty_process_bytes: int | None = None
    process_bytes: int | None = None
    not_measured: str = ""


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
    size: tuple[int, int]
    """Height and width of the frames."""
    backend: str
    precision: Precision
    schedule: Schedule
    reason: str
    """Why this schedule."""
    length: BenchLength
    iterations: int
    """Frames that were measured."""
    latency_ms: Latency
    throughput: Throughput
    rearrangement: Rearrangement | None
    """``None`` where it is part of the device's work."""
    memory: PeakMemory
    machine: BenchMachine

    @property
    def use(self) -> tuple[str, str, Precision, Schedule]:
        """What the measurement is of; a bundle keeps one for each use."""
        return self.machine.device, self.backend, self.precision, self.schedule
