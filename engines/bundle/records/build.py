"""The record of an engine's build."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.bundle.gate import read_file
from engines.bundle.limits import BUILD_RECORD_BYTES
from engines.bundle.names import Sha256
from engines.bundle.records.codec import Count, Record, record_from_json
from engines.bundle.records.fingerprint import Fingerprint, Tactics
from engines.errors import InputError
from engines.schedules.schedule import Precision


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
    graph_sha256: Sha256
    prepare: str
    prepare_sha256: Sha256
    weights_sha256: Sha256
    strongly_typed: bool
    convolutions: dict[str, Count]
    """By type, in the network that the runtime was given."""
    effective_precision: dict[str, Count] | str
    """By type, in the finished engine, or why it was not read."""
    input_shape: tuple[Count, ...]
    """Of the largest sub-batch."""
    timing_cache: bool
    plan_bytes: Count
    plan_sha256: Sha256
    prepare_plan_bytes: Count
    prepare_plan_sha256: Sha256
    build_s: float
    """Seconds for both plans."""
    tactics: Tactics | None
    """What the build can be repeated from, where that was asked for."""
    fingerprint: Fingerprint


def build_record_from_file(path: str | Path) -> BuildRecord:
    """A build record that a user names, of another bundle perhaps.

    Raises :class:`InputError` where there is no such file, and :class:`BundleError` where it is no build record.
    """
    try:
        document = read_file(path, BUILD_RECORD_BYTES)
    except OSError as error:
        raise InputError(f"cannot read the build record {path}: {error.strerror}") from error
    return record_from_json(document, BuildRecord, path)
