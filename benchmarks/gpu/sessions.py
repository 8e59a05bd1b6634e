"""Sessions measured and proven: every schedule as it is, and what a budget chooses."""

from __future__ import annotations

import itertools
import re
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engines import Backend, BuildOptions, Bundle, Lowering, Precision, Schedule, Session, build_engine
from engines.bundle.records import Check, Quantity
from engines.bundle.records import Status as CheckStatus
from engines.errors import BackendError, BundleError, InputError, MachineError, OutOfMemory, SmpDeployError, WorkFailed
from engines.executors.device import DeviceExecutor
from engines.executors.timing import stage_times_ms
from engines.parity.tolerances import TOLERANCES
from engines.planning.sizes import bytes_of_memory
from engines.proof import WholeFrames, provenance_checks, session_checks
from gpu.results import Job, Row, Status
from smp_deploy.benchmarking.device_memory import Gauge, PeakWatch

PRECISIONS = (Precision.FP16, Precision.TF32, Precision.FP32)
"""The fastest first."""

SCHEDULES = (
    Schedule(2, 4, Lowering.DILATED),
    Schedule(2, 16),
    *(Schedule(2, sub_batch, lowering) for lowering in Lowering for sub_batch in (1, 4)),
    Schedule(3, 4),
    Schedule(0),
)
"""What is measured first, of what a bundle has. An engine is built for no other: each takes its time."""

BUDGETS = ("512MiB", "1GiB", "2GiB", "4GiB")

CONTEXT, PARITY, BUDGET = "context", "schedules", "budgets"

_ENOUGH_S = 1.0
"""After this long a median of at least three is good enough."""


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    gauge: Gauge | None
    repeats: int
    matrix_rates: dict[str, float] = field(default_factory=dict)
    """Operations a second of matrix products, by precision, once they are measured."""
    refused: dict[str, str] = field(default_factory=dict)
    """Backends that do not run here although all their packages are there, and why: no second engine is built then."""


@dataclass
class Subject:
    """A bundle on a backend in a precision: what sessions are opened of, and what they are proven in."""

    name: str
    """Of the bundle."""
    bundle: Bundle
    """With the engines that were built for it."""
    backend: Backend
    precision: Precision
    frames: WholeFrames = field(default_factory=WholeFrames)
    """Of the first schedule: the others are compared with them."""

    def row(self, kind: str, schedule: Schedule | str = "") -> Row:
        """A row of this subject, still without an outcome."""
        return Row(kind, self.backend.name, self.name, self.precision.value, str(schedule))

    @property
    def frame(self) -> np.ndarray:
        """The bundle's first reference frame."""
        return self.bundle.reference_arrays(self.bundle.manifest.reference[0])[0]

    def schedules(self) -> list[Schedule]:
        """Every one to measure, those of :data:`SCHEDULES` first."""
        manifest, graph = self.bundle.manifest, self.backend.graph_precision(self.precision)
        trunks = [trunk for trunk in manifest.trunks if graph in trunk.graphs]
        known = [schedule for trunk in trunks for schedule in manifest.schedules_of(trunk)]
        first = [schedule for schedule in dict.fromkeys(SCHEDULES) if schedule in known]
        return first if self.backend.needs_engines else [*first, *(held for held in known if held not in first)]

    def with_engine(self, **wanted: Any) -> None:
        """Build the engine that is needed, as ``build-engine`` does; raises what :func:`build_engine` does."""
        if self.backend.needs_engines:
            options = BuildOptions(max_aux_streams=0)
            self.bundle = build_engine(self.bundle, self.backend, self.precision, options=options, **wanted).bundle


def subjects_of(name: str, bundle: Bundle, backend: Backend) -> list[Subject]:
    """One for each precision that both have. Raises :class:`~engines.errors.MissingDependency` as a backend does."""
    graphs = {precision for trunk in bundle.manifest.trunks for precision in trunk.graphs}
    return [
        Subject(name, bundle, backend, precision)
        for precision in PRECISIONS
        if backend.graph_precision(precision) in graphs
        and backend.refusal(precision) is None
        and backend.unproven(precision) is None
    ]


def schedule_job(subject: Subject, schedule: Schedule, bench: Bench) -> Job:
    """Parity, memory and time of one schedule."""

    def measure(row: Row) -> Row:
        if reason := bench.refused.get(subject.backend.name):
            return row.ended("not run", reason)
        try:
            named = {"levels": schedule.levels, "lowering": schedule.lowering, "sub_batch": schedule.sub_batch}
            subject.with_engine(**named)
        except (InputError, MachineError) as error:
            return _unbuilt(row, error)
        return measured(row, subject, bench, lambda: opened(subject, schedule=schedule))

    return Job(subject.row(PARITY, schedule), measure)


def _unbuilt(row: Row, error: SmpDeployError) -> Row:
    """What is absent is *not run*; a build that began and broke failed."""
    broke = isinstance(error, BackendError) and not isinstance(error, OutOfMemory)
    return row.ended("failed", f"the build broke: {error}") if broke else row.ended("not run", str(error))


def opened(subject: Subject, **wanted: Any) -> Session:
    """A session of a subject; raises what :meth:`Session.open` does."""
    return Session.open(subject.bundle, subject.backend, precision=subject.precision, **wanted)


def measured(
    row: Row,
    subject: Subject,
    bench: Bench,
    open_session: Callable[[], Session],
    refusal: Callable[[SmpDeployError], tuple[Status, str]] = lambda error: ("not run", str(error)),
) -> Row:
    """The row, by a session that is opened, watched, timed and proven.

    What does not open was *not run*; what began and broke failed. ``refusal`` judges what was given or the memory,
    where the session does not open for that.
    """
    with PeakWatch(bench.gauge) as watch:
        try:
            session = open_session()
        except WorkFailed as error:
            return row.ended("failed", f"broke: {error}")
        except (InputError, OutOfMemory) as error:
            return row.ended(*refusal(error))
        except SmpDeployError as error:
            bench.refused[subject.backend.name] = str(error)
            return row.ended("not run", str(error))
        try:
            with session:
                figures = _figures(session, subject, bench, watch)
                tolerance = TOLERANCES[subject.precision]
                checks = list(session_checks(session, subject.backend, subject.precision, tolerance, subject.frames))
        except SmpDeployError as error:
            return row.ended("failed", f"broke: {error}")
    if subject.backend.needs_engines:
        uses = (subject.backend.name, subject.precision, session.schedule)
        held = [engine for engine in subject.bundle.engines if engine.use == uses]
        checks += provenance_checks(subject.bundle, held)
    figures |= _parity(checks)
    del session
    if taken := watch.taken():
        figures |= {"taken_bytes": taken.session, "stays_bytes": taken.stays}
    status, reason = verdict(checks)
    return row.ended(status, reason, **figures)


def _figures(session: Session, subject: Subject, bench: Bench, watch: PeakWatch) -> dict[str, Any]:
    frame, manifest, schedule = subject.frame, subject.bundle.manifest, session.schedule
    session.predict(frame)
    deque(session.predict_all([frame] * 3), maxlen=0)
    # The thread that watches would take its share of what is timed.
    watch.stop()
    latency_ms = median_ms(lambda: session.predict(frame), bench.repeats)
    operations = manifest.frame_operations(manifest.trunk_of(schedule))
    figures: dict[str, Any] = {
        "schedule": str(schedule),
        "latency_ms": latency_ms,
        "frame_to_frame_ms": frame_to_frame_ms(session, frame, frames_in(bench.repeats + 1, latency_ms)),
        "operations_per_s": operations / latency_ms * 1000,
        "predicted_bytes": subject.backend.memory.peak_bytes(manifest, schedule, subject.precision),
        "notes": list(session.executor.notes),
    }
    if rate := bench.matrix_rates.get(subject.precision.value):
        figures["share_of_matrix_rate"] = figures["operations_per_s"] / rate
    if isinstance(session.executor, DeviceExecutor):
        executor = session.executor
        group = session.grid.sub_batches(schedule.sub_batch)[0]
        runs = [stage_times_ms(executor, frame, group) for _ in range(bench.repeats)]
        figures["stages_ms"] = {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
        figures["allocated_bytes"] = sum(size for what, size in executor.memory().items() if what != "pinned")
    return figures


def _parity(checks: list[Check]) -> dict[str, Any]:
    """The worst figures of all checks that gave one."""
    agreements = [c.value for c in checks if c.quantity is Quantity.LABEL_AGREEMENT and c.value is not None]
    errors = [
        c.value
        for c in checks
        if c.quantity in (Quantity.LOGIT_ERROR, Quantity.PROBABILITY_ERROR) and c.value is not None
    ]
    figures: dict[str, Any] = {"checks": len(checks)}
    if agreements:
        figures["agreement"] = float(min(agreements))
    if errors:
        figures["error"] = float(max(errors))
    return figures


def verdict(checks: list[Check]) -> tuple[Status, str]:
    """Of a row, by its checks: one that failed decides, and one that passed is needed."""
    failed = [check for check in checks if check.failed]
    if failed:
        first = failed[0]
        shown = "" if first.value is None else f"{float(first.value):.6g} where {float(first.tolerance):.6g} is held, "
        return "failed", f"{len(failed)} of {len(checks)} checks: {first.name}, {first.subject}: {shown}{first.words}"
    if any(check.status is CheckStatus.PASSED for check in checks):
        return "passed", ""
    return "not run", "; ".join(dict.fromkeys(check.detail for check in checks)) or "there was nothing to check"


def budget_job(subject: Subject, budget: str, bench: Bench) -> Job:
    """What a budget chooses, and what that takes."""

    def measure(row: Row) -> Row:
        if reason := bench.refused.get(subject.backend.name):
            return row.ended("not run", reason)
        try:
            subject.with_engine(memory=budget)
        except InputError as error:
            return row.ended(*refusal_verdict(error))
        except MachineError as error:
            return _unbuilt(row, error)
        ended = measured(row, subject, bench, lambda: opened(subject, memory=budget), refusal_verdict)
        if ended.status != "passed":
            return ended
        return ended.ended(*budget_verdict(bytes_of_memory(budget), ended.figures.get("taken_bytes")))

    return Job(subject.row(BUDGET, f"budget {budget}"), measure)


def budget_verdict(budget: int, taken: int | None) -> tuple[Status, str]:
    """Whether a session kept to its budget, beyond the context and the loaded kernels."""
    if taken is None:
        return "not run", "nothing here measures what a device's memory grows by"
    if taken > budget:
        return "failed", f"took {taken / 2**20:.0f} MiB of {budget / 2**20:.0f}"
    return "passed", ""


def refusal_verdict(error: SmpDeployError) -> tuple[Status, str]:
    """A budget that is refused must come with the size of one that would suffice."""
    if isinstance(error, BundleError):
        return "not run", str(error)
    sizes = re.findall(r"\d+(?:\.\d+)? [KMG]iB", str(error))
    if not sizes:
        return "failed", f"refused without a budget that would suffice: {error}"
    return "refused", str(error)


def context_job(subject: Subject, bench: Bench) -> Job:
    """The GPU's memory that the process has for good: its context and the kernels of the smallest session."""
    manifest, backend = subject.bundle.manifest, subject.backend
    smallest = min(
        subject.schedules(), key=lambda schedule: backend.memory.peak_bytes(manifest, schedule, subject.precision)
    )

    def measure(row: Row) -> Row:
        if bench.gauge is None:
            return row.ended("not run", "nothing here measures a device's memory")
        before = bench.gauge.settled()
        try:
            named = {"levels": smallest.levels, "lowering": smallest.lowering, "sub_batch": smallest.sub_batch}
            subject.with_engine(**named)
            with opened(subject, schedule=smallest) as session:
                session.predict(subject.frame)
            del session
        except SmpDeployError as error:
            return row.ended("not run", str(error))
        taken = bench.gauge.settled() - before
        reason = "" if bench.gauge.sees_context else f"{bench.gauge.name} does not see the context: kernels alone"
        return row.ended("passed", reason, context_and_kernels_bytes=taken)

    return Job(subject.row(CONTEXT, smallest), measure)


def median_ms(call: Callable[[], object], repeats: int) -> float:
    """Of calls after the first one: of so many, or of at least three where that takes long."""
    call()
    times: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
        if len(times) >= 3 and sum(times) > _ENOUGH_S:
            break
    return statistics.median(times) * 1000


def frames_in(count: int, frame_ms: float) -> int:
    """So many frames, or at least three where that takes long."""
    return min(count, max(3, int(_ENOUGH_S * 1000 / frame_ms)))


def frame_to_frame_ms(session: Session, frame: np.ndarray, count: int) -> float:
    """Of frames one after the other, where the next one is uploaded while this one is computed."""
    started = time.perf_counter()
    deque(session.predict_all(_same(frame, count)), maxlen=0)
    return (time.perf_counter() - started) * 1000 / count


def _same(frame: np.ndarray, count: int) -> Iterator[np.ndarray]:
    return itertools.repeat(frame, count)
