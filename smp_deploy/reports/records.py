"""What a report reads of the records in ``reports/``: no hash protects them, so their shape is checked."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from engines.parity.checks import Tolerance

_Figure: TypeAlias = float | Literal["inf", "-inf", "nan"] | None
"""Infinities and NaN, which JSON lacks, are text."""


class _Counts(msgspec.Struct):
    passed: int
    failed: int


class _Network(msgspec.Struct):
    source: str


class _Check(msgspec.Struct):
    kind: str
    name: str
    subject: str
    status: Literal["passed", "failed", "not run"]
    measured: _Figure
    tolerance: float
    detail: str
    location: str


class _Layer(msgspec.Struct):
    name: str
    magnitude: _Figure
    error: dict[str, _Figure]


class _Class(msgspec.Struct):
    name: str
    pixels: int
    agreeing: int


class _Change(msgspec.Struct):
    before: str = msgspec.field(name="from")
    to: str
    pixels: int


class _Agreement(msgspec.Struct):
    pixels: int
    differing: int
    ties: int
    near: int
    near_differing: int
    by_phase: list[list[float]] | None
    error_by_phase: list[list[_Figure]] | None
    classes: list[_Class]
    changes: list[_Change]


class _Overlay(msgspec.Struct):
    name: str
    precision: str


class _Platform(msgspec.Struct):
    system: str
    python: str


class _Tools(msgspec.Struct):
    at_export: dict[str, str] = msgspec.field(name="at export")
    here: dict[str, str]


class Validation(msgspec.Struct, kw_only=True):
    """The record of a validation, as :func:`smp_deploy.reports.documents.document_of` makes it."""

    bundle: str
    verdict: Literal["passed", "failed", "not run"]
    counts: _Counts
    not_proven: list[str]
    created: str
    seconds: float
    network: _Network
    frame: tuple[int, int]
    frames: list[str]
    tolerances: dict[str, Tolerance]
    overrides: dict[str, float]
    checks: list[_Check]
    machine: _Platform
    tools: _Tools
    files: dict[str, str]
    commands: list[str]
    layers: list[_Layer] = []
    agreements: dict[str, _Agreement] = {}
    overlays: list[_Overlay] = []

    def __post_init__(self) -> None:
        """Raise ``ValueError``, which msgspec passes on as its own, for a precision without tolerances."""
        if missing := self.agreements.keys() - self.tolerances.keys():
            raise ValueError(f"there are no tolerances of {', '.join(sorted(missing))}")
