"""What may be chosen of a dense form."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from converters.densifying.upsampling import Upsampling
from engines.bundle.manifest import DensifiedRecord
from engines.schedules.schedule import named


class MaxPool(enum.Enum):
    """What a strided max pool becomes."""

    DENSE = "dense"
    """The same pool at stride 1, then a split: the same function."""
    SPLIT = "split"
    """A split in its place, as in the paper: another function."""


@dataclass(frozen=True)
class Densification:
    """How a network is made dense."""

    until: str | None = None
    """The module behind which strides are kept."""
    upsampling: Upsampling | None = None
    """``None`` for the kernel where an interpolation has one, and merges where it has none."""
    max_pool: MaxPool = MaxPool.DENSE

    @classmethod
    def of(cls, until: str | None, upsampling: Upsampling | str | None, max_pool: MaxPool | str) -> Densification:
        """From words. Raises :class:`InputError` for one that is unknown."""
        return cls(
            until=until,
            upsampling=None if upsampling is None else named(Upsampling, "upsampling", upsampling),
            max_pool=named(MaxPool, "max_pool", max_pool),
        )

    @classmethod
    def of_record(cls, record: DensifiedRecord) -> Densification:
        """What a manifest says."""
        return cls.of(record.until, record.upsampling, record.max_pool)

    def record(self) -> DensifiedRecord:
        """What a manifest says of it."""
        upsampling: Any = None if self.upsampling is None else self.upsampling.value
        return DensifiedRecord(until=self.until, upsampling=upsampling, max_pool=self.max_pool.value)
