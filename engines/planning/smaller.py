"""What to try when memory does not suffice: schedules that need less."""

from __future__ import annotations

from engines.backends import flavour_of
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Precision
from engines.executors.opening import engine_schedules
from engines.planning.planner import sub_batch_bytes
from engines.schedules.schedule import Schedule

_AT_MOST = 0.75
"""Of what the schedule before needs: one that needs about as much would fail in the same way."""


def smaller_schedules(bundle: Bundle, backend: str, precision: Precision, schedule: Schedule) -> list[Schedule]:
    """The schedules to try one after the other in place of ``schedule``, each needing clearly less than the one before.

    Those that the bundle has an engine for or, on a backend that runs graphs, a trunk. What a schedule needs is
    what the planner predicts for a sub-batch; the rest is the same for all. Of equal ones the one with the least work
    comes first, then the one with the same lowering.
    """
    flavour, manifest = flavour_of(backend), bundle.manifest
    if flavour is not None:
        held = engine_schedules(manifest, flavour, precision)
    else:
        held = [
            Schedule(trunk.levels, sub_batch, trunk.lowering)
            for trunk in manifest.trunks
            if precision in trunk.graphs
            for sub_batch in _halved(manifest.grid(trunk).largest_sub_batch)
        ]

    def needed(candidate: Schedule) -> int:
        return sub_batch_bytes(manifest, candidate, precision, backend)

    def order(candidate: Schedule) -> tuple[int, int, bool]:
        trunk = manifest.trunk(candidate.levels, candidate.lowering)
        return -needed(candidate), manifest.frame_operations(trunk), candidate.lowering is not schedule.lowering

    left, chosen = needed(schedule), []
    for candidate in sorted(held, key=order):
        if needed(candidate) <= _AT_MOST * left:
            chosen.append(candidate)
            left = needed(candidate)
    return chosen


def _halved(largest: int) -> list[int]:
    sizes = [largest]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes
