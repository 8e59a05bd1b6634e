"""Which schedule is the fastest here: candidates, interleaved rounds, the winner."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from converters.memory import available_bytes
from engines.backends import DEFAULT_BACKEND, backend_named
from engines.backends.base import Backend, Kind
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Manifest, TrunkRecord, TuningMeasurement, TuningRecord
from engines.errors import InputError
from engines.planning.choice import named_schedule
from engines.planning.planner import plan
from engines.planning.sizes import bytes_of_memory
from engines.planning.tunings import here
from engines.schedules.schedule import Lowering, Precision, Schedule, named
from engines.session import Session
from smp_deploy.benchmarking.timing import Frame, frame_ms

NO_REPEATED_WORK = 1.01
"""Trunks whose frames take at most this much more operations than the least are compared."""

HOPELESS = 1.25
"""A schedule whose best time in two rounds is this much above the fastest's median is measured no further."""

EQUALLY_FAST = 1.02
"""Of the schedules within this of the fastest, the one of the least memory wins."""


@dataclass(frozen=True)
class TuningConfig:
    """What to measure, and how long."""

    backend: Backend = field(default_factory=lambda: backend_named(DEFAULT_BACKEND))
    precision: Precision = Precision.FP32
    rounds: int = 5
    seconds: float = 2.0
    """Of one schedule in one round; a frame that takes longer is cut short, and its time extrapolated."""
    levels: tuple[int, ...] = ()
    """By default those that repeat no work."""
    lowerings: tuple[Lowering, ...] = ()
    """By default all."""
    device: str | None = None
    """The backend's first by default."""
    fits: Callable[[Schedule], bool] = field(default=lambda schedule: True)
    """Which schedules may be tried: others take more memory than there is, or than the backend takes in one tensor."""

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.seconds < 0:
            raise InputError(
                f"at least 1 round is measured, and its seconds are not negative; received rounds={self.rounds}, "
                f"seconds={self.seconds}"
            )


@dataclass(frozen=True)
class Missing:
    """A trunk that would be a candidate and that the bundle was exported without."""

    levels: int
    lowering: Lowering


def candidates(bundle: Bundle, config: TuningConfig) -> list[Schedule]:
    """Schedules to compare, the default first: sub-batches are powers of two, and all that can go together.

    Those that the backend can open: on TensorRT the bundle's engines. Raises :class:`InputError` when nothing is left.
    """
    manifest = bundle.manifest
    trunks = {(trunk.levels, trunk.lowering) for trunk in _trunks(manifest, config)}
    held = config.backend.schedules(bundle, config.precision)
    found = [
        schedule
        for schedule in held
        if (schedule.levels, schedule.lowering) in trunks
        and (not config.lowerings or schedule.lowering in config.lowerings)
        and config.fits(schedule)
    ]
    default = named_schedule(manifest)
    default = default if default in held and config.fits(default) else (found or [default])[0]
    if not found:
        raise InputError(
            "no schedule is left to compare: the bundle has no trunk, or no engine, of these levels and lowerings that "
            "fits into the memory"
        )
    return [default, *(schedule for schedule in found if schedule != default)]


def missing_trunks(manifest: Manifest, config: TuningConfig) -> list[Missing]:
    """Lowerings of the levels to compare that the bundle was exported without, where a split is left inside."""
    held = {(trunk.levels, trunk.lowering) for trunk in manifest.trunks}
    levels = sorted({trunk.levels for trunk in _trunks(manifest, config)})
    return [
        Missing(level, lowering)
        for level in levels
        for lowering in config.lowerings or tuple(Lowering)
        if level < len(manifest.windows) and (level, lowering) not in held
    ]


def _trunks(manifest: Manifest, config: TuningConfig) -> list[TrunkRecord]:
    if config.levels:
        return [trunk for trunk in manifest.trunks if trunk.levels in config.levels]
    least = min(map(manifest.frame_operations, manifest.trunks))
    return [t for t in manifest.trunks if manifest.frame_operations(t) <= NO_REPEATED_WORK * least]


@dataclass(frozen=True)
class TuningResult:
    """What a tuning found."""

    record: TuningRecord
    """Every schedule with its times, the winner first."""
    missing: tuple[Missing, ...]
    """What could not be compared."""
    bundle: Bundle
    """The bundle, which holds the record now."""


def tune(
    bundle: Bundle | str | Path,
    backend: str | Backend = DEFAULT_BACKEND,
    precision: Precision | str = Precision.FP32,
    *,
    frame: Frame | None = None,
    levels: Sequence[int] = (),
    lowerings: Sequence[Lowering | str] = (),
    rounds: int = 5,
    seconds: float = 2.0,
    memory: int | str | None = None,
    device: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> TuningResult:
    """Measure the schedules of a bundle on this machine and record the fastest in the bundle.

    Sessions on this device with this runtime use the winner from then on.

    Args:
        bundle: an open bundle, or the path of one.
        backend: a name of :data:`engines.backends.BACKENDS`, or a backend.
        precision: arithmetic of the trunk.
        frame: ``(H, W, 3)`` uint8 RGB in [0, 255], of the bundle's size; by default the first reference frame.
        levels: levels to compare; by default those that repeat no work.
        lowerings: lowerings to compare; by default all.
        rounds: measurements of each schedule; hopeless ones are dropped early.
        seconds: length of one measurement; a frame that takes longer is cut short, and its time extrapolated.
        memory: ``"1GiB"`` or bytes: only schedules with a predicted peak within it are compared. By default half of
            what is free on a CPU, and no limit on a GPU.
        device: ``"cuda:1"`` say; the backend's first by default.
        on_progress: called with ``(measurements done, in all)``.

    Raises:
        BundleError: the bundle is absent or damaged.
        OutputError: the bundle cannot be written to; said before the first measurement.
        InputError: no schedule is left to compare.
        MachineError: the runtime is missing or refuses the work.
    """
    opened = Bundle.of(bundle)
    opened.check_writable()
    on, arithmetic = backend_named(backend), named(Precision, "precision", precision)
    config = TuningConfig(
        backend=on,
        precision=arithmetic,
        rounds=rounds,
        seconds=seconds,
        levels=tuple(levels),
        lowerings=tuple(named(Lowering, "lowerings", lowering) for lowering in lowerings),
        device=device,
        fits=_fits(opened, on, arithmetic, memory),
    )
    if frame is None:
        frame = opened.reference_arrays(opened.manifest.reference[0])[0]
    record = measured(opened, frame, config, on_progress or (lambda done, total: None))
    stored = opened.with_tuning(record)
    return TuningResult(record, tuple(missing_trunks(opened.manifest, config)), stored)


def _fits(
    bundle: Bundle, backend: Backend, precision: Precision, memory: int | str | None
) -> Callable[[Schedule], bool]:
    """Whether a schedule may be tried: by its largest tensor and its predicted peak.

    Without a budget the peak is within half of what is free on a CPU, and any on a GPU.
    """
    limit = None if memory is None else bytes_of_memory(memory)
    if limit is None and backend.kind is Kind.CPU:
        limit = available_bytes() // 2
    planned = plan(bundle, backend, precision)
    refused = {
        candidate.schedule
        for candidate in planned.candidates
        if candidate.too_large or (limit is not None and planned.needed_bytes(candidate) > limit)
    }
    # A built engine may have a sub-batch that is no candidate of the planner; it is there to be tried.
    return lambda schedule: schedule not in refused


def measured(
    bundle: Bundle,
    frame: Frame,
    config: TuningConfig,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> TuningRecord:
    """Measure the candidates, round after round, each once in a round.

    A slow stretch of the machine so meets all of them. Only one session is open at a time, and every one has run a
    sub-batch before it is measured. ``on_progress`` is called with ``(measurements done, in all)``; dropped
    candidates count as done.
    """
    schedules = candidates(bundle, config)
    times: dict[Schedule, list[float]] = {schedule: [] for schedule in schedules}
    total, done = len(schedules) * config.rounds, 0
    running = list(schedules)
    for number in range(1, config.rounds + 1):
        for schedule in running:
            times[schedule].append(_measured(bundle, schedule, frame, config))
            done += 1
            on_progress(done, total)
        # One round may have met a slow stretch of the machine.
        kept = hopeful(times, running) if number > 1 else running
        done += (len(running) - len(kept)) * (config.rounds - number)
        running = kept
    on_progress(total, total)
    best = winner(bundle.manifest, config, times)
    ordered = [best, *sorted((s for s in schedules if s != best), key=lambda s: median(times[s]))]
    backend = config.backend
    device, runtime = here(backend, config.device)
    return TuningRecord(
        device=device,
        backend=backend.name,
        precision=config.precision,
        runtime=runtime,
        measurements=[TuningMeasurement(schedule=schedule, frame_ms=times[schedule]) for schedule in ordered],
    )


def _measured(bundle: Bundle, schedule: Schedule, frame: Frame, config: TuningConfig) -> float:
    with Session.open(
        bundle, config.backend, precision=config.precision, schedule=schedule, device=config.device
    ) as session:
        frame_ms(session, frame, 0)
        return frame_ms(session, frame, config.seconds)


def hopeful(times: dict[Schedule, list[float]], running: Sequence[Schedule]) -> list[Schedule]:
    """Those whose best time is not :data:`HOPELESS`. The first, the default, stays: others are compared with it."""
    fastest = min(median(times[schedule]) for schedule in running)
    return [s for s in running if s == running[0] or min(times[s]) <= HOPELESS * fastest]


def winner(manifest: Manifest, config: TuningConfig, times: dict[Schedule, list[float]]) -> Schedule:
    """The fastest by its median, or one that is :data:`EQUALLY_FAST` and takes less memory.

    Only schedules that were measured in every round can win.
    """
    rounds = max(map(len, times.values()))
    medians = {schedule: median(values) for schedule, values in times.items() if len(values) == rounds}
    limit = EQUALLY_FAST * min(medians.values())

    def order(schedule: Schedule) -> tuple[int, float]:
        return config.backend.memory.sub_batch_bytes(manifest, schedule, config.precision), medians[schedule]

    return min((schedule for schedule, value in medians.items() if value <= limit), key=order)
