"""A schedule: how the work on one frame is cut into pieces (section 6 of the design in docs/concepts.md)."""

from __future__ import annotations

from dataclasses import dataclass

from engines.bundle.manifest import Lowering, Manifest
from engines.errors import LayoutError


@dataclass(frozen=True)
class Schedule:
    """Which levels are walked in a loop over their phases, how many phases at a time, and how the rest is computed.

    Every schedule of a bundle gives the same result; they differ in memory and time.
    """

    levels: int
    """The first splits of the network, which the loop stands for."""
    sub_batch: int = 1
    """Phases at a time."""
    lowering: Lowering = Lowering.RESHAPE

    def __post_init__(self) -> None:
        if self.levels < 0 or self.sub_batch < 1:
            raise LayoutError(f"a schedule has levels from 0 and a sub-batch from 1; received {self}")

    def __str__(self) -> str:
        return f"levels {self.levels}, sub-batch {self.sub_batch}, {self.lowering.value}"


def default_schedule(manifest: Manifest) -> Schedule:
    """The bundle's first trunk, one phase at a time: no repeated work, and the least memory for that."""
    trunk = manifest.trunk()
    return Schedule(trunk.levels, 1, trunk.lowering)


def resolved_schedule(
    manifest: Manifest, levels: int | None = None, sub_batch: int | None = None, lowering: Lowering | None = None
) -> Schedule:
    """The schedule that a user has named in part, completed from the bundle.

    A sub-batch larger than the phases that can go together is one of all of them. Raises :class:`BundleError` when
    the bundle has no such trunk.
    """
    trunk = manifest.trunk(levels, lowering)
    largest = manifest.grid(trunk).largest_sub_batch
    return Schedule(trunk.levels, min(sub_batch or 1, largest), trunk.lowering)
