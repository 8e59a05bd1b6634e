"""What ``bench`` measured of a bundle, kept in its ``reports/`` so that a report shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from engines.bundle import Bundle
from engines.errors import InputError
from engines.manifest import Lowering, Precision
from engines.planner import plan
from engines.schedules import Schedule
from engines.staging import write_file
from smp_deploy.reports.documents import made_directory

BENCHES = "bench.json"
RECORD_VERSION = 1
"""Raised by every change that an older reader would misunderstand."""

_USE = ("backend", "precision", "levels", "lowering", "sub_batch")
_LEFT_OUT = ("bundle", "network", "size", "length")


def keep(bundle: Bundle, document: Mapping[str, Any]) -> None:
    """Add a measurement of ``bench``, in place of an older one of the same device and schedule.

    Raises :class:`OutputError` where the bundle cannot be written to.
    """
    run = {key: value for key, value in document.items() if key not in _LEFT_OUT}
    others = [held for held in kept(bundle) if _use_of(held) != _use_of(run)]
    record = {"record_version": RECORD_VERSION, "runs": [*others, run]}
    write_file(made_directory(bundle) / BENCHES, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def kept(bundle: Bundle) -> list[dict[str, Any]]:
    """The measurements that a bundle holds; none where the record is missing or cannot be read."""
    try:
        record = json.loads((bundle.path / "reports" / BENCHES).read_bytes())
        runs = record["runs"] if record["record_version"] == RECORD_VERSION else []
        return [run for run in runs if _use_of(run)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def rows_of(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """A row for every measurement: what ran where, its latency and throughput, memory predicted and measured."""
    for run in kept(bundle):
        schedule = run["schedule"]
        found = Schedule(schedule["levels"], schedule["sub_batch"], Lowering(schedule["lowering"]))
        memory = run["memory"].get("above_empty_process_bytes")
        yield {
            "device": run["machine"]["device"],
            "runtime": run["machine"]["runtime"],
            "precision": run["precision"],
            "schedule": str(found),
            "median_ms": run["latency_ms"]["median"],
            "percentiles": run["latency_ms"]["percentiles"],
            "megapixels_per_s": run["throughput"]["megapixels_per_s"],
            "measured_mib": None if memory is None else memory / 2**20,
            "predicted_mib": _predicted_mib(bundle, found, run),
        }


def _predicted_mib(bundle: Bundle, schedule: Schedule, run: Mapping[str, Any]) -> float | None:
    try:
        planned = plan(bundle.manifest, precision=Precision(run["precision"]), backend=run["backend"])
    except InputError:
        return None
    peaks = (candidate.peak_bytes for candidate in planned.candidates if candidate.schedule == schedule)
    return next((peak / 2**20 for peak in peaks), None)


def _use_of(run: Mapping[str, Any]) -> tuple[Any, ...]:
    flat = {**run, **run["schedule"]}
    return (run["machine"]["device"], *(flat[key] for key in _USE))
