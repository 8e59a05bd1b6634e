"""What to try when memory does not suffice: schedules that need less."""

from __future__ import annotations

from engines.backends import flavour_of
from engines.bundle import Bundle
from engines.executors.opening import engine_schedules
from engines.manifest import Lowering, Precision
from engines.schedules import Schedule

_AT_MOST = 0.75
"""Of the live bytes of the schedule before: one that needs about as much would fail in the same way."""


def smaller_schedules(bundle: Bundle, backend: str, precision: Precision, schedule: Schedule) -> list[Schedule]:
    """The schedules to try one after the other in place of ``schedule``, each needing clearly less than the one before.

    Those that the bundle has an engine for or, on a backend that runs graphs, a trunk. What a schedule needs is
    judged by the bytes that are live at once in its trunk, as the manifest has them, times the sub-batch. Of equal
    ones the one with the least work comes first, then the one with the same lowering.
    """
    flavour, manifest = flavour_of(backend), bundle.manifest
    if flavour is not None:
        held = engine_schedules(bundle.manifest, flavour, precision)
    else:
        held = [
            Schedule(trunk.levels, sub_batch, trunk.lowering)
            for trunk in manifest.trunks
            if precision in trunk.graphs
            for sub_batch in _halved(manifest.grid(trunk).largest_sub_batch)
        ]
    left = live_bytes(bundle, precision, schedule)
    chosen: list[Schedule] = []
    for candidate in sorted(held, key=lambda held: _order(bundle, precision, held, schedule.lowering)):
        if live_bytes(bundle, precision, candidate) <= _AT_MOST * left:
            chosen.append(candidate)
            left = live_bytes(bundle, precision, candidate)
    return chosen


def live_bytes(bundle: Bundle, precision: Precision, schedule: Schedule) -> int:
    """Bytes of the trunk's tensors that are alive at once, for the whole sub-batch."""
    trunk = bundle.manifest.trunk(schedule.levels, schedule.lowering)
    return trunk.live_bytes.get(precision, 0) * schedule.sub_batch


def _order(bundle: Bundle, precision: Precision, schedule: Schedule, lowering: Lowering) -> tuple[int, int, bool]:
    trunk = bundle.manifest.trunk(schedule.levels, schedule.lowering)
    work = trunk.operations * len(bundle.manifest.grid(trunk).phases)
    return -live_bytes(bundle, precision, schedule), work, schedule.lowering is not lowering


def _halved(largest: int) -> list[int]:
    sizes = [largest]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    return sizes
