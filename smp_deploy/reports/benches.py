"""What ``bench`` measured of a bundle, kept in its ``reports/`` so that a report shows it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from engines.bundle.bundle import Bundle
from engines.bundle.staging import write_file
from engines.errors import BackendError, InputError
from engines.planning.planner import plan
from smp_deploy.reports.documents import made_directory
from smp_deploy.reports.records import BenchRun, bench_run_of

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
    """The measurements that a bundle holds, those that can be read; none where the whole record cannot."""
    try:
        record = json.loads((bundle.path / "reports" / BENCHES).read_bytes())
        runs = list(record["runs"]) if record["record_version"] == RECORD_VERSION else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    readable = []
    for run in runs:
        with contextlib.suppress(msgspec.ValidationError):
            bench_run_of(run)
            readable.append(run)
    return readable


def rows_of(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """A row for every measurement: what ran where, its latency and throughput, memory predicted and measured."""
    for run in map(bench_run_of, kept(bundle)):
        memory = run.memory.above_empty_process_bytes
        yield {
            "device": run.machine.device,
            "runtime": run.machine.runtime,
            "precision": run.precision.value,
            "schedule": str(run.schedule),
            "median_ms": run.latency_ms.median,
            "percentiles": run.latency_ms.percentiles,
            "megapixels_per_s": run.throughput.megapixels_per_s,
            "measured_mib": None if memory is None else memory / 2**20,
            "predicted_mib": _predicted_mib(bundle, run),
        }


def _predicted_mib(bundle: Bundle, run: BenchRun) -> float | None:
    try:
        planned = plan(bundle, run.backend, run.precision)
    except (InputError, BackendError):
        return None
    peaks = (candidate.peak_bytes for candidate in planned.candidates if candidate.schedule == run.schedule)
    return next((peak / 2**20 for peak in peaks), None)


def _use_of(run: Mapping[str, Any]) -> tuple[Any, ...]:
    flat = {**run, **run["schedule"]}
    return (run["machine"]["device"], *(flat[key] for key in _USE))
