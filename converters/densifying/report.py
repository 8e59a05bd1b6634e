"""What was done to every layer of a network, and what the dense network is to it."""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from dataclasses import dataclass
from typing import Any

from converters.densifying.options import Densification
from converters.densifying.places import Standing
from converters.pooling import Window
from engines.schedules.phases import Size


class Fate(enum.Enum):
    """What became of a layer."""

    DENSE = "dense"
    """It has stride 1, and a split follows."""
    MERGED = "merged"
    """Merges have taken the place of an upsampling."""
    JOINED = "joined"
    """Branches of different levels meet here, and one of them is merged."""
    KEPT = "kept"
    """It computes for each shift what it computed for an image, strides and statistics included."""


@dataclass(frozen=True)
class LayerRow:
    """A layer that was changed, or kept although it looks at a whole map or leaves rows out."""

    name: str
    """The path of its module; of a function, its name, after that of the module that calls it."""
    kind: str
    """``"Conv2d 3x3, stride 2"``."""
    fate: Fate
    done: str
    level: int
    """Splits before it."""


@dataclass(frozen=True)
class DensifyReport:
    """What :func:`converters.densify` did. Printed, it is a table and what follows from it."""

    network: str
    """The class of the strided network."""
    size: Size
    """Of a frame, ``(height, width)``."""
    padded_size: Size
    """What a frame is padded to, so that every split comes out even; images of the dense network are multiples of
    ``size_multiple``."""
    size_multiple: Size
    windows: tuple[Window, ...]
    """Of the splits, outermost first."""
    walkable_levels: int
    """How many of these a loop can walk, so that memory is bounded."""
    function: Standing
    """What the dense network computes."""
    joins: tuple[str, ...]
    """Where it becomes another function than the strided one's; empty otherwise."""
    layers: tuple[LayerRow, ...]
    """In the order of their execution."""
    options: Densification
    checked: int
    """How many maps were compared with the strided network's at phase (0, 0)."""
    checked_size: Size
    """Of the image that they were compared on."""
    difference: float
    """The largest, relative to the largest value of its map."""
    precision: str
    """In what they were computed, ``"float64"``."""

    def counts(self) -> dict[str, int]:
        """How many layers became what."""
        return {fate.value: number for fate, number in Counter(row.fate for row in self.layers).items()}

    def as_document(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        document = _plain(dataclasses.asdict(self))
        return {**document, "summary": list(self.summary())}

    def rows(self) -> list[tuple[str, ...]]:
        """The table, without its head."""
        return [(row.name, row.kind, str(row.level), row.fate.value, row.done) for row in self.layers]

    def summary(self) -> tuple[str, ...]:
        """What follows from the table, a sentence each."""
        return tuple(_sentences(self))

    def __str__(self) -> str:
        head = ("layer", "kind", "level", "", "in the dense network")
        table = [head, *self.rows()]
        widths = [max(len(row[column]) for row in table) for column in range(len(head) - 1)]
        lines = [
            "  ".join([*(text.ljust(width) for text, width in zip(row[:-1], widths, strict=True)), row[-1]]).rstrip()
            for row in table
        ]
        return "\n".join([*lines, "", *self.summary()])


def _sentences(report: DensifyReport) -> list[str]:
    total = (1, 1)
    for h, w in report.windows:
        total = (total[0] * h, total[1] * w)
    said = [_FUNCTIONS[report.function].format(shifts=f"{total[0]}x{total[1]}")]
    if report.joins:
        said.append(
            f"From {report.joins[0]} on it is another function than the strided network's: weights that were trained "
            "strided want a short fine-tuning in the dense network."
        )
    levels, walkable = len(report.windows), report.walkable_levels
    if walkable == levels:
        said.append(f"A loop can walk all {levels} levels, so that memory is bounded.")
    else:
        why = "the phases meet in its kernel" if _ends_in_kernel(report) else "the phases meet before the end"
        bound = f"{walkable} of {levels} levels" if walkable else f"none of the {levels} levels"
        said.append(
            f"A loop can walk {bound}, since {why}: "
            + ("memory holds the rest as a whole" if walkable else "memory holds the whole frame at every level")
            + ('; upsampling="merge" has no kernel.' if _ends_in_kernel(report) and not report.joins else ".")
        )
    if report.padded_size != report.size:
        said.append(
            f"Frames of {_sides(report.size)} are padded to {_sides(report.padded_size)}, multiples of "
            f"{_sides(report.size_multiple)}."
        )
    said.append(
        f"Checked in {report.precision} on {_sides(report.checked_size)} of noise: {report.checked} maps at phase "
        f"(0, 0) equal the strided network's within {report.difference:.1e}."
    )
    return said


def _sides(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


_FUNCTIONS = {
    Standing.SHIFTS: "The dense network is the strided one at each of {shifts} shifts of the image, stitched together.",
    Standing.STITCHED: "The dense network is the strided one at each of {shifts} shifts of the image, before its "
    "upsampling, stitched together.",
    Standing.MEAN: "The dense network is the mean of what the strided one gives, upsampled, for {shifts} shifts of the "
    "image.",
    Standing.JOINED: "The dense network has the strided one's layers at each of {shifts} shifts of the image, and "
    "joins their levels.",
}


def _ends_in_kernel(report: DensifyReport) -> bool:
    return any(row.fate is Fate.MERGED and ("kernel" in row.done or "mean of" in row.done) for row in report.layers)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(held) for key, held in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(held) for held in value]
    return value.value if isinstance(value, enum.Enum) else value
