"""Which sub-batches are run: every phase, in every size that a session may use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engines.bundle.bundle import Bundle
from engines.bundle.manifest import TrunkRecord
from engines.schedules.phases import Phase, PhaseGrid, dispersed


@dataclass(frozen=True)
class Group:
    """One sub-batch: phases that share their inner offsets, each with the number of the frame that it is cut from."""

    entries: tuple[tuple[int, Phase], ...]

    @property
    def size(self) -> int:
        """Entries."""
        return len(self.entries)


def sizes_of(bundle: Bundle, trunk: TrunkRecord) -> list[int]:
    """Sub-batches that sessions take: powers of two, those of engines and of tunings, all phases, and what is left
    over at the end of a walk with any of them."""
    most = bundle.manifest.grid(trunk).largest_sub_batch
    schedules = [*bundle.manifest.schedules_of(trunk), *(engine.schedule for engine in bundle.engines)]
    schedules += [held.schedule for tuning in bundle.target.tunings for held in tuning.measurements]
    here = {
        schedule.sub_batch
        for schedule in schedules
        if (schedule.levels, schedule.lowering) == (trunk.levels, trunk.lowering)
    }
    held = {min(size, most) for size in (1, 2, 3, *here)}
    return sorted(held | {most % size for size in held if most % size})


def whole_groups(grid: PhaseGrid) -> Iterator[Group]:
    """Every phase of the first frame, as many at a time as can go together."""
    for phases in _together(grid):
        yield Group(tuple((0, phase) for phase in phases))


def mixed_groups(grid: PhaseGrid, sizes: Sequence[int]) -> Iterator[Group]:
    """Sub-batches of the other sizes; behind the first entry every second one is of the second frame.

    Without inner offsets, and at the first of them, every phase in turn in each of the sizes; at every other offset one
    sub-batch, of another size and other phases each time.
    """
    smaller = [size for size in sizes if size < grid.largest_sub_batch] or [1]
    first, *others = _together(grid)
    start, missing = 0, list(smaller)
    while start < len(first) or missing:
        size = missing.pop(0) if missing else smaller[0]
        # Around the end: the first phases once more, so that every size has its turn.
        yield _mixed([first[(start + index) % len(first)] for index in range(size)])
        start += size
    # All phases at once, half of them of another frame; two frames where there is but one phase.
    yield _mixed(first if len(first) > 1 else first * 2)
    for turn, phases in enumerate(others):
        size = smaller[turn % len(smaller)]
        yield _mixed([phases[(turn + index) % len(phases)] for index in range(size)])


def _mixed(phases: Sequence[Phase]) -> Group:
    return Group(tuple((index % 2, phase) for index, phase in enumerate(phases)))


def _together(grid: PhaseGrid) -> Iterator[list[Phase]]:
    (g, f), (h, w) = grid.cut_window, grid.window
    cuts = dispersed(grid.cut_window)
    for down, right in dispersed((h // g, w // f)):
        yield [(row + g * down, column + f * right) for row, column in cuts]


def listed(sizes: Sequence[int]) -> str:
    """Sizes of sub-batches for people: ``1, 2 and 5``."""
    *most, last = map(str, sizes)
    return f"{', '.join(most)} and {last}" if most else last
