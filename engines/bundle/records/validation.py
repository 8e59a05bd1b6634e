"""The record of a validation."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from engines.bundle.manifest import OutputKind
from engines.bundle.records.checks import Check, Kind, Status, Tolerance
from engines.bundle.records.codec import Count, Figure, Record
from engines.schedules.schedule import Lowering, Precision, Schedule

VALIDATION = "validation.json"
"""The record of the bundle's own validation; :class:`Proven` names those of backends."""

ARRAYS = "validation.npz"
"""Frames and labels of :attr:`Validation.overlays`: a kind of :data:`OVERLAY_ARRAYS`, a dash, the overlay's place."""

OVERLAY_ARRAYS = ("image", "expected", "actual", "ties")
"""``(H, W, 3)`` uint8; ``(H, W)`` integers in fp32 and in the precision; ``(H, W)`` bool."""

VALIDATION_VERSION = 3
"""Of the record; raised by every change of its fields."""


class LayerFigures(Record, frozen=True, kw_only=True):
    """What is known of the output of one operator of the default trunk."""

    name: str
    magnitude: Figure
    """Largest absolute value in fp32."""
    largest: dict[Precision, Figure]
    """The same in the other precisions; NaN or infinite where one is not finite."""
    error: dict[Precision, Figure]
    """Largest absolute error against fp32, relative to ``magnitude``."""


class ClassFigures(Record, frozen=True, kw_only=True):
    """Pixels of one class in fp32."""

    name: str
    pixels: Count
    agreeing: Count
    """With the same label in the precision."""


class ClassChange(Record, frozen=True, kw_only=True):
    """Pixels of one class in fp32 that are another one in the precision."""

    before: str = msgspec.field(name="from")
    to: str
    pixels: Count


class LabelFigures(Record, frozen=True, kw_only=True):
    """Labels of one precision against those of fp32, over all frames that count."""

    pixels: Count
    differing: Count
    ties: Count
    near: Count
    """Pixels near a boundary of classes."""
    near_differing: Count
    by_phase: list[list[Annotated[float, msgspec.Meta(ge=0, le=1)]]] | None
    """Share of differing labels at every phase of :attr:`Validation.window`; ``None`` where no frame is whole."""
    error_by_phase: list[list[Figure]] | None
    """Mean absolute error of the logits there, relative to the largest logit."""
    classes: list[ClassFigures]
    changes: list[ClassChange]
    """The most frequent first."""


class OverlayName(Record, frozen=True, kw_only=True):
    """A frame whose labels are kept in :data:`ARRAYS`."""

    name: str
    precision: Precision


class ValidatedNetwork(Record, frozen=True, kw_only=True):
    """As the manifest names it."""

    source: str
    parameters: Count


class Platform(Record, frozen=True, kw_only=True):
    """Where a record was made."""

    system: str
    python: str


class ToolVersions(Record, frozen=True, kw_only=True):
    """Versions of packages."""

    at_export: dict[str, str] = msgspec.field(name="at export")
    here: dict[str, str]


class Validation(Record, frozen=True, kw_only=True):
    """What a validation has shown, with the tolerances it was held to and what it ran on."""

    record_version: int
    bundle: str
    verdict: Status
    """As :func:`verdict_of` says of the checks."""
    counts: dict[Status, Count]
    not_proven: list[str]
    """A line for every check that did not run, with the reason."""
    created: str
    """ISO 8601, UTC."""
    seconds: float
    network: ValidatedNetwork
    frame: tuple[Count, Count]
    """Height and width."""
    outputs: OutputKind
    frames: list[str]
    chain: list[str]
    """The graphs of the chain: the whole one, then the default trunk in every precision. Others are other schedules."""
    tolerances: Annotated[dict[Precision, Tolerance], msgspec.Meta(min_length=1)]
    overrides: dict[str, float]
    """Figures of the table that were replaced, for every precision."""
    checks: list[Check]
    window: tuple[Count, Count]
    """Of the default trunk's phases."""
    layers: list[LayerFigures]
    agreements: dict[Precision, LabelFigures]
    overlays: list[OverlayName]
    machine: Platform
    tools: ToolVersions
    files: dict[str, str]
    """SHA-256 of ``manifest.json`` and of every file that was listed: what it is bound to."""
    commands: list[str]
    """How to make this record again, and what to look at next."""

    def __post_init__(self) -> None:
        """Raise ``ValueError``, which msgspec passes on as its own, where the fields contradict each other."""
        if missing := self.agreements.keys() - self.tolerances.keys():
            raise ValueError(f"there are no tolerances of {', '.join(sorted(held.value for held in missing))}")
        if self.verdict is not verdict_of(self.checks) or self.counts != counts_of(self.checks):
            raise ValueError(f"the verdict {self.verdict.value!r} or the counts are not those of the checks")
        for figures in self.agreements.values():
            _check_phases(figures, self.window)


def _check_phases(figures: LabelFigures, window: tuple[int, int]) -> None:
    maps = (figures.by_phase, figures.error_by_phase)
    if maps == (None, None):
        return
    rows, columns = window
    for held in maps:
        if held is None or len(held) != rows or any(len(row) != columns for row in held):
            raise ValueError(f"the figures by phase are not those of the {rows}x{columns} phases of the window")


def verdict_of(checks: Iterable[Check]) -> Status:
    """*Passed* says that all that ran passed, and that something did whose result counts.

    Where an engine comes from is no result.
    """
    held = list(checks)
    if any(check.failed for check in held):
        return Status.FAILED
    computed = any(check.status is Status.PASSED for check in held if check.kind is not Kind.PROVENANCE)
    return Status.PASSED if computed else Status.NOT_RUN


def counts_of(checks: Iterable[Check]) -> dict[Status, int]:
    """How many checks ended in which way; every way is named."""
    counts = dict.fromkeys(Status, 0)
    for check in checks:
        counts[check.status] += 1
    return counts


@dataclass(frozen=True)
class Proven:
    """What the proof of a backend is of. Each has a record of its own, beside the bundle's: a proof takes the place of
    none but an older one of the same."""

    backend: str
    precision: Precision
    schedule: Schedule | None
    """``None`` for all schedules that the backend has in the bundle, in one proof."""

    @property
    def file(self) -> str:
        """Name of the record: ``validation-onnxruntime-fp32-l2-b1-reshape.json``."""
        held = self.schedule
        walked = "" if held is None else f"-l{held.levels}-b{held.sub_batch}-{held.lowering.value}"
        return f"validation-{self.backend}-{self.precision.value}{walked}.json"

    @classmethod
    def of_file(cls, name: str) -> Proven | None:
        """The one whose record has this name; ``None`` where it is another file's."""
        if (match := _PROOF.fullmatch(name)) is None:
            return None
        backend, precision, levels, sub_batch, lowering = match.groups()
        schedule = None if levels is None else Schedule(int(levels), int(sub_batch), Lowering(lowering))
        return cls(backend, Precision(precision), schedule)

    def __str__(self) -> str:
        walked = "" if self.schedule is None else f", {self.schedule}"
        return f"{self.backend}, {self.precision.value}{walked}"


def _one_of(kind: type[Precision] | type[Lowering]) -> str:
    return f"({'|'.join(member.value for member in kind)})"


_PROOF = re.compile(
    rf"validation-([a-z][a-z-]*)-{_one_of(Precision)}(?:-l(\d{{1,4}})-b([1-9]\d{{0,8}})-{_one_of(Lowering)})?\.json"
)
