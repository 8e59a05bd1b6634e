"""The choice of a schedule: one function for all that opens a bundle, builds of it or measures it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.backends import DEFAULT_BACKEND, backend_named
from engines.backends.base import Backend, Kind
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Manifest
from engines.errors import InputError
from engines.planning.deadlines import best_by, checked_deadline
from engines.planning.planner import FILLING_OPERATIONS, LOWERINGS_ON_GPUS, plan
from engines.planning.sizes import bytes_of_memory, shown_bytes
from engines.planning.tunings import here, measured_frames, tunings_of
from engines.schedules.schedule import Lowering, Precision, Schedule, named


@dataclass(frozen=True)
class ChosenSchedule:
    """A schedule, and why it is this one."""

    schedule: Schedule
    reason: str
    tuned: bool
    """Whether it was measured to be the fastest on this device."""


def choose_schedule(
    bundle: Bundle | str | Path,
    backend: str | Backend = DEFAULT_BACKEND,
    precision: Precision | str = Precision.FP32,
    *,
    levels: int | None = None,
    lowering: Lowering | str | None = None,
    sub_batch: int | None = None,
    memory: int | str | None = None,
    device: str | None = None,
    deadline_ms: float | None = None,
) -> ChosenSchedule:
    """The schedule of a bundle to take on a backend, in a precision.

    - What is named in part, by ``levels``, ``lowering`` or ``sub_batch``, is completed from the bundle.
    - A budget, ``memory``, takes what :func:`engines.planning.planner.plan` chooses.
    - A deadline takes what gives the most by then, as measured on this device, within the budget where there is one:
      its first prediction comes in time, if any schedule's does. Where the bundle was not tuned it is the usual trunk,
      or the budget's, with the fewest phases at a time.
    - With none of them it is the fastest where the bundle was tuned for this device, backend, precision and runtime.
      Elsewhere that of the bundle's engine where the backend needs one and there is only one. Else it is the levels of
      the bundle's first trunk: on a CPU that trunk, one phase at a time, and on a GPU the lowering that rearranges
      least, with the smallest sub-batch that fills it. A tuning of another machine is no better than a guess.

    Args:
        bundle: an open bundle, or the path of one, whose files are then verified.
        backend: a name of :data:`engines.backends.BACKENDS`, or a backend.
        precision: arithmetic of the trunk.
        levels: splits that the loop stands for.
        lowering: how the splits inside the trunk are computed.
        sub_batch: phases at a time; more than can go together is all of them.
        memory: ``"1GiB"`` or bytes: what a process that does nothing else may hold on a CPU, device memory on a GPU.
        device: ``"cpu"``, ``"cuda:1"``; the backend's first by default.
        deadline_ms: that :meth:`engines.Session.predict` will be given, in ms.

    Raises:
        InputError: no positive deadline, a budget beside a named schedule, nothing that fits (the message says the
            smallest budget that would), an unknown backend, or a device of another kind.
        BundleError: the bundle is absent or damaged, or has no such trunk.
        BackendError: the backend has no such arithmetic.
        MissingDependency: the bundle has a tuning for the backend, or the runtime must say whether it has the
            arithmetic, and the runtime is missing.
    """
    bundle = Bundle.of(bundle)
    found, precision = backend_named(backend), named(Precision, "precision", precision)
    found.device(device)
    found.check_precision(precision)
    deadline = None if deadline_ms is None else checked_deadline(deadline_ms)
    if (levels, lowering, sub_batch) != (None, None, None):
        if memory is not None:
            raise InputError("memory= chooses the schedule; leave out levels=, lowering= and sub_batch=")
        form = None if lowering is None else named(Lowering, "lowering", lowering)
        return ChosenSchedule(named_schedule(bundle.manifest, levels, sub_batch, form), "asked for", tuned=False)
    budget = None if memory is None else bytes_of_memory(memory)
    if deadline is not None:
        return _by_deadline(bundle, found, precision, deadline, budget, device)
    if budget is not None:
        return _within(bundle, found, precision, budget, device)
    return _usual(bundle, found, precision, device)


def session_schedule(
    bundle: Bundle,
    backend: Backend,
    precision: Precision,
    schedule: Schedule | None,
    *,
    memory: int | str | None = None,
    device: str | None = None,
) -> Schedule:
    """What a session walks: ``schedule`` with a sub-batch that the frame has, or else :func:`choose_schedule`'s.

    Raises what these raise, and :class:`InputError` for a schedule whose predicted peak is above the budget.
    """
    if schedule is None:
        return choose_schedule(bundle, backend, precision, memory=memory, device=device).schedule
    wanted = named_schedule(bundle.manifest, schedule.levels, schedule.sub_batch, schedule.lowering)
    if memory is not None:
        needed = backend.memory.needed_bytes(bundle.manifest, wanted, precision)
        if needed > bytes_of_memory(memory):
            raise InputError(
                f"{wanted} needs {shown_bytes(needed)} as predicted, more than memory={memory!r}; without a schedule "
                "one that fits is chosen"
            )
    return wanted


def named_schedule(
    manifest: Manifest, levels: int | None = None, sub_batch: int | None = None, lowering: Lowering | None = None
) -> Schedule:
    """The schedule that a user has named in part, completed from the bundle's first trunk that fits.

    A sub-batch larger than the phases that can go together is one of all of them. Raises :class:`BundleError` when
    the bundle has no such trunk, :class:`LayoutError` for a sub-batch below 1.
    """
    trunk = manifest.trunk(levels, lowering)
    largest = manifest.grid(trunk).largest_sub_batch
    return Schedule(trunk.levels, min(1 if sub_batch is None else sub_batch, largest), trunk.lowering)


def filling_schedule(manifest: Manifest, backend: Backend, precision: Precision) -> Schedule:
    """The smallest sub-batch of the first trunk's levels that fills a GPU, or the largest that there is."""
    graph, levels = backend.graph_precision(precision), manifest.trunk().levels
    trunks = [trunk for trunk in manifest.trunks if trunk.levels == levels and graph in trunk.graphs]
    if not trunks:
        return named_schedule(manifest)
    trunk = min(trunks, key=lambda held: LOWERINGS_ON_GPUS.index(held.lowering))
    sizes = sorted(schedule.sub_batch for schedule in manifest.schedules_of(trunk))
    filling = (size for size in sizes if size * trunk.operations >= FILLING_OPERATIONS)
    return Schedule(trunk.levels, next(filling, sizes[-1]), trunk.lowering)


def _by_deadline(
    bundle: Bundle,
    backend: Backend,
    precision: Precision,
    deadline_ms: float,
    memory_bytes: int | None,
    device: str | None,
) -> ChosenSchedule:
    manifest, measured = bundle.manifest, measured_frames(bundle, backend, precision, device)
    held = set(backend.schedules(bundle, precision))
    if memory_bytes is not None:
        planned = plan(bundle, backend, precision, memory=memory_bytes, device=device)
        held &= {candidate.schedule for candidate in planned.candidates if planned.fits(candidate)}
    expected = best_by(deadline_ms, {one: times for one, times in measured.items() if one in held}, manifest)
    if expected is not None:
        when = f"the first prediction after {expected.first_ms:.3g} ms of {deadline_ms:g}, all after"
        reason = f"for the deadline, as measured on this device: {when} {expected.frame_ms:.3g} ms"
        if expected.first_ms > deadline_ms:
            reason += "; no schedule that was measured is in time"
        return ChosenSchedule(expected.schedule, reason, tuned=True)
    usual = (
        _usual(bundle, backend, precision, device)
        if memory_bytes is None
        else _within(bundle, backend, precision, memory_bytes, device)
    ).schedule
    # Fewer phases at a time take less memory, too.
    alike = [one for one in held if (one.levels, one.lowering) == (usual.levels, usual.lowering)]
    first = min(alike or [usual], key=lambda one: one.sub_batch)
    reason = "the fewest phases at a time, for the deadline; how long they take was not measured here: tune does"
    return ChosenSchedule(first, reason, tuned=False)


def _within(
    bundle: Bundle, backend: Backend, precision: Precision, memory_bytes: int, device: str | None
) -> ChosenSchedule:
    planned = plan(bundle, backend, precision, memory=memory_bytes, device=device)
    choice = planned.choice
    assert choice is not None
    peak, budget = shown_bytes(planned.needed_bytes(choice)), shown_bytes(memory_bytes)
    return ChosenSchedule(choice.schedule, f"predicted peak {peak} of {budget}; {planned.reason}", planned.tuned)


def _usual(bundle: Bundle, backend: Backend, precision: Precision, device: str | None) -> ChosenSchedule:
    manifest = bundle.manifest
    default, kind = named_schedule(manifest), "default"
    if backend.kind is Kind.GPU and not backend.needs_engines:
        default, kind = filling_schedule(manifest, backend, precision), "default for a GPU"
    if backend.needs_engines and len(built := backend.schedules(bundle, precision)) == 1:
        default, kind = built[0], "one engine"
    near = tunings_of(bundle, backend, precision)
    if not near:
        reason = f"the bundle's {kind}; it is not tuned for {backend}, {precision.value}"
        return ChosenSchedule(default, reason, tuned=False)
    on = here(backend, device)
    for held in near:
        if (held.device, held.runtime) == on:
            return ChosenSchedule(held.measurements[0].schedule, f"tuned on this device: {', '.join(on)}", tuned=True)
    tuned_on = "; ".join(f"{held.device}, {held.runtime}" for held in near)
    reason = f"the bundle's {kind}; it is tuned for {tuned_on}, and this is {', '.join(on)}"
    return ChosenSchedule(default, reason, tuned=False)
