"""What ``bench`` measured of a bundle, kept in its ``reports/`` so that a report shows it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec

from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Precision
from engines.bundle.staging import write_file
from engines.errors import BackendError, InputError
from engines.planning.planner import plan
from engines.schedules.schedule import Schedule
from smp_deploy.reports.documents import made_directory

BENCHES = "bench.json"
RECORD_VERSION = 2
"""Raised by every change that an older reader would misunderstand."""


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every part of a record: immutable, and without fields that the schema does not name."""


class Latency(_Record, frozen=True):
    """Of a frame, in milliseconds."""

    min: float
    max: float
    mean: float
    median: float
    percentiles: dict[str, float]
    """By their names, ``"99"``."""


class BenchLength(_Record, frozen=True):
    """How long was measured, at least."""

    warm_up_ms: float
    duration_s: float
    iterations: int


class Throughput(_Record, frozen=True):
    """Of frames one after the other."""

    frames_per_s: float
    megapixels_per_s: float


class Rearrangement(_Record, frozen=True):
    """Cutting windows and merging predictions, of one frame."""

    ms: float
    share: float
    """Of the median latency."""


class PeakMemory(_Record, frozen=True):
    """The peak of a fresh process; either both figures or the reason why there are none."""

    above_empty_process_bytes: int | None = None
    process_bytes: int | None = None
    not_measured: str = ""


class BenchMachine(_Record, frozen=True):
    """What a measurement was made with."""

    device: str
    runtime: str
    smp_deploy: str = msgspec.field(name="smp-deploy")
    python: str
    system: str
    machine: str
    """The processor's architecture and cores."""
    memory: str


class BenchRecord(_Record, frozen=True):
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


def keep(bundle: Bundle, record: BenchRecord) -> None:
    """Add a measurement of ``bench``, in place of an older one of the same device and schedule.

    Raises :class:`OutputError` where the bundle cannot be written to.
    """
    runs = [*(held for held in kept(bundle) if held.use != record.use), record]
    content = msgspec.json.encode({"record_version": RECORD_VERSION, "runs": runs})
    write_file(made_directory(bundle) / BENCHES, msgspec.json.format(content, indent=2) + b"\n")


def kept(bundle: Bundle) -> list[BenchRecord]:
    """The measurements that a bundle holds, those that can be read; none where the whole record cannot."""
    try:
        record = msgspec.json.decode((bundle.path / "reports" / BENCHES).read_bytes())
        runs = list(record["runs"]) if record["record_version"] == RECORD_VERSION else []
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        return []
    readable = []
    for run in runs:
        with contextlib.suppress(msgspec.ValidationError):
            readable.append(msgspec.convert(run, BenchRecord))
    return readable


def rows_of(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """A row for every measurement: what ran where, its latency and throughput, memory predicted and measured."""
    for run in kept(bundle):
        memory = run.memory.above_empty_process_bytes
        yield {
            "device": run.machine.device,
            "runtime": run.machine.runtime,
            "precision": run.precision.value,
            "schedule": str(run.schedule),
            "median_ms": run.latency_ms.median,
            "percentiles": run.latency_ms.percentiles,
            "megapixels_per_s": run.throughput.megapixels_per_s,
            "measured_mib": None if memory is None else memory / 2**20,
            "predicted_mib": _predicted_mib(bundle, run),
        }


def _predicted_mib(bundle: Bundle, run: BenchRecord) -> float | None:
    try:
        planned = plan(bundle.manifest, precision=run.precision, backend=run.backend)
    except (InputError, BackendError):
        return None
    peaks = (candidate.peak_bytes for candidate in planned.candidates if candidate.schedule == run.schedule)
    return next((peak / 2**20 for peak in peaks), None)
