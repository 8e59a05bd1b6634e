"""The record of an engine's build."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from engines.bundle.records.codec import Count, Record
from engines.schedules.schedule import Precision

_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class BuildDevice(Record, frozen=True, kw_only=True):
    """What an engine is tied to."""

    architecture: str
    soc: str | None
    gpu: str | None
    compute_capability: str | None


class BuildRecord(Record, frozen=True, kw_only=True):
    """What an engine was built from, with and for."""

    smp_deploy: str
    python: str
    backend: str
    """That runs the engine."""
    version: str
    """Of the runtime that built it."""
    target: str
    device: BuildDevice
    precision: Precision
    sub_batch: Count
    flags: dict[str, Any]
    """What was asked for; sizes in bytes."""
    graph: str
    graph_sha256: _Sha256
    prepare: str
    prepare_sha256: _Sha256
    weights_sha256: _Sha256
    strongly_typed: bool
    convolutions: dict[str, Count]
    """By type, in the network that the runtime was given."""
    effective_precision: dict[str, Count] | str
    """By type, in the finished engine, or why it was not read."""
    input_shape: tuple[Count, ...]
    """Of the largest sub-batch."""
    timing_cache: bool
    plan_bytes: Count
    plan_sha256: _Sha256
    prepare_plan_bytes: Count
    prepare_plan_sha256: _Sha256
    build_s: float
    """Seconds for both plans."""
