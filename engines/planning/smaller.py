"""What to try when memory does not suffice: schedules that need less."""

from __future__ import annotations

from engines.backends.base import Backend
from engines.bundle.bundle import Bundle
from engines.errors import LayoutError
from engines.planning.sizes import shown_bytes
from engines.schedules.schedule import Precision, Schedule

_AT_MOST = 0.75
"""Of what the schedule before needs: one that needs about as much would fail in the same way."""


def smaller_schedules(bundle: Bundle, backend: Backend, precision: Precision, schedule: Schedule) -> list[Schedule]:
    """The schedules to try one after the other in place of ``schedule``, each needing clearly less than the one before.

    Those that the backend can open. What a schedule needs is what is predicted for a sub-batch; the rest is the same
    for all. Of equal ones the one with the least work comes first, then the one with the same lowering.
    """

    manifest = bundle.manifest

    def needed(candidate: Schedule) -> int:
        return backend.memory.sub_batch_bytes(manifest, candidate, precision)

    def order(candidate: Schedule) -> tuple[int, int, bool]:
        operations = manifest.frame_operations(manifest.trunk_of(candidate))
        return -needed(candidate), operations, candidate.lowering is not schedule.lowering

    held = backend.schedules(bundle, precision)
    if backend.refusal(precision) is not None or not held:
        # Nothing can be opened; the attempt says why.
        return []
    left, chosen = needed(schedule), []
    for candidate in sorted(held, key=order):
        if needed(candidate) <= _AT_MOST * left:
            chosen.append(candidate)
            left = needed(candidate)
    return chosen


def hint_of_smaller(bundle: Bundle, backend: Backend, precision: Precision, schedule: Schedule) -> str:
    """What to add to a message that there was no room for a schedule: the next one that needs clearly less."""
    try:
        smaller = smaller_schedules(bundle, backend, precision, schedule)
        if not smaller:
            what = "engine for a schedule" if backend.needs_engines else "schedule"
            return f"; the bundle has no {what} that needs clearly less"
        both = (schedule, smaller[0])
        needed, instead = (backend.memory.needed_bytes(bundle.manifest, held, precision) for held in both)
    except LayoutError:
        # A manifest without these figures: what was to be said is said without them.
        return ""
    return f"; {schedule} needs {shown_bytes(needed)} as predicted, {smaller[0]} {shown_bytes(instead)}"
