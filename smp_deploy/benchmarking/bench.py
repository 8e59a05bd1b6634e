"""Measuring one schedule of a bundle: latency, throughput and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from engines.backends import BACKENDS, DEFAULT_BACKEND, backend_named
from engines.backends.base import Backend, Kind
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import MANIFEST_NAME
from engines.bundle.records import (
    BenchLength,
    BenchMachine,
    BenchRecord,
    DeviceMemory,
    Latency,
    PeakMemory,
    Rearrangement,
    Throughput,
)
from engines.errors import MachineError
from engines.planning.choice import ChosenSchedule, choose_schedule
from engines.planning.sizes import bytes_of_memory
from engines.schedules.schedule import Precision, Schedule, named
from engines.session import Session
from smp_deploy.benchmarking.peak_memory import session_peak
from smp_deploy.benchmarking.statistics import check_percentiles, summary_of
from smp_deploy.benchmarking.timing import Frame, Length, frame_latencies, rearrangement_ms
from smp_deploy.machine import measured_with
from smp_deploy.reports import benches


def bench(
    bundle: Bundle | str | Path,
    backend: str | Backend = DEFAULT_BACKEND,
    precision: Precision | str = Precision.FP32,
    *,
    schedule: Schedule | ChosenSchedule | None = None,
    memory: int | str | None = None,
    device: str | None = None,
    frames: Sequence[Frame] | None = None,
    warm_up_ms: float = 200.0,
    duration_s: float = 3.0,
    iterations: int = 10,
    percentiles: Sequence[float] = (90, 95, 99),
    keep: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> BenchRecord:
    """Measure one schedule of a bundle on this machine.

    A frame's latency is the time from the frame handed over to its predictions. Memory is the peak of a fresh process
    above an empty one; on a GPU also what its session took of the device, and what CUDA's context and the loaded
    kernels take beyond. ``record.memory.over_budget`` says whether a budget was passed.

    Args:
        bundle: an open bundle, or the path of one.
        backend: a name of :data:`engines.backends.BACKENDS`, or a backend.
        precision: arithmetic of the trunk.
        schedule: what to measure; by default what :func:`engines.choose_schedule` chooses, from ``memory`` where it is
            given.
        memory: a budget, as for :meth:`engines.Session.open`.
        device: ``"cuda:1"`` say; the backend's first by default.
        frames: ``(H, W, 3)`` uint8 RGB in [0, 255], of the bundle's size, taken in turn; by default the first
            reference frame.
        warm_up_ms: run at least this long, and at least one frame, before measuring.
        duration_s: measure at least this long,
        iterations: and at least so many frames.
        percentiles: of the latency, in [0, 100].
        keep: keep the record in the bundle's ``reports/``, in place of an older one of this device and schedule.
        on_progress: called with ``(frames done, frames in all)``; the latter is an estimate.

    Raises:
        BundleError: the bundle is absent, damaged or lacks what the schedule needs.
        InputError: a length or a percentile that is none.
        MachineError: the runtime is missing or refuses the work.
        OutputError: the record cannot be kept in the bundle; said before the first measurement.
    """
    opened = Bundle.of(bundle)
    if keep:
        opened.check_reports()
    on, arithmetic = backend_named(backend), named(Precision, "precision", precision)
    if schedule is None:
        chosen = choose_schedule(opened, on, arithmetic, memory=memory, device=device)
    else:
        chosen = ChosenSchedule(schedule, "asked for", tuned=False) if isinstance(schedule, Schedule) else schedule
    length = Length(warm_up_ms, duration_s, iterations)
    check_percentiles(percentiles)
    if not frames:
        frames = [opened.reference_arrays(opened.manifest.reference[0])[0]]
    with Session.open(
        opened, on, precision=arithmetic, schedule=chosen.schedule, memory=memory, device=device
    ) as session:
        # Also what this schedule does not read; what was read is verified.
        opened.verify()
        latencies_ms = frame_latencies(session, frames, length, on_progress or (lambda done, total: None))
        # On a GPU windows are cut and predictions merged on the device, within the frame's work.
        moved_ms = None if on.kind is Kind.GPU else rearrangement_ms(session)
        height, width = session.grid.frame_size
    summary = summary_of(latencies_ms, percentiles)
    frames_per_s = 1000 / summary.mean
    record = BenchRecord(
        network=opened.manifest.network.source,
        size=(height, width),
        backend=on.name,
        precision=arithmetic,
        schedule=chosen.schedule,
        reason=chosen.reason,
        length=BenchLength(**asdict(length)),
        iterations=len(latencies_ms),
        latency_ms=Latency(**asdict(summary)),
        throughput=Throughput(frames_per_s=frames_per_s, megapixels_per_s=frames_per_s * height * width / 1e6),
        rearrangement=None if moved_ms is None else Rearrangement(ms=moved_ms, share=moved_ms / summary.median),
        memory=_memory(opened, chosen.schedule, arithmetic, on, device, memory),
        machine=msgspec.convert(measured_with(on, device), BenchMachine),
        files=_ran(opened, on, arithmetic, chosen.schedule),
    )
    if keep:
        benches.keep(opened, record)
    return record


def _ran(bundle: Bundle, backend: Backend, precision: Precision, schedule: Schedule) -> dict[str, str]:
    """The digests of what ran: of the engines where there are some, else of the graphs and the weights."""
    manifest = bundle.manifest
    names = [manifest.prepare, manifest.weights]
    if backend.needs_engines:
        use = (backend.name, precision, schedule)
        names += [name for engine in bundle.engines if engine.use == use for name in engine.files]
    else:
        names.append(bundle.trunk_graph(manifest.trunk_of(schedule), backend.graph_precision(precision)))
    digests = bundle.digests
    return {name: digests[name] for name in (MANIFEST_NAME, *names)}


def _memory(
    bundle: Bundle,
    schedule: Schedule,
    precision: Precision,
    backend: Backend,
    device: str | None,
    memory: int | str | None,
) -> PeakMemory:
    if backend not in BACKENDS:
        return PeakMemory(not_measured="a fresh process knows the listed backends alone")
    budget = None if memory is None else bytes_of_memory(memory)
    try:
        peak = session_peak(
            bundle.path, schedule, precision=precision, backend=backend.name, device=device, memory=memory
        )
    except MachineError as error:
        return PeakMemory(not_measured=str(error), budget_bytes=budget)
    return PeakMemory(
        above_empty_process_bytes=peak.work_bytes,
        process_bytes=peak.peak_bytes,
        device=msgspec.convert(peak.returned["device"], DeviceMemory | None),
        budget_bytes=budget,
    )
