"""What ``bench`` measured of a bundle, kept in its ``reports/`` so that a report shows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from engines.backends.base import Backend
from engines.bundle.bundle import Bundle
from engines.bundle.records import BenchRecord, json_from_record, record_from_json
from engines.bundle.standing import of_digests
from engines.errors import BackendError, BundleError, InputError
from engines.planning.planner import plan

BENCHES = "bench.json"
RECORD_VERSION = 3
"""Raised by every change of :class:`BenchRecord`."""


class _Benches(msgspec.Struct, frozen=True):
    """The file."""

    record_version: int
    runs: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=4096)]
    """Of :class:`BenchRecord`; each is read by itself, so that one that is damaged costs no other."""


def keep(bundle: Bundle, record: BenchRecord) -> None:
    """Add a measurement of ``bench``, in place of an older one of the same device and schedule.

    Raises :class:`OutputError` where the bundle cannot be written to.
    """
    with bundle.folder.locked():
        runs = [*(held for held in kept(bundle) if held.use != record.use), record]
        benches = _Benches(RECORD_VERSION, [msgspec.Raw(json_from_record(run)) for run in runs])
        bundle.write_report(BENCHES, json_from_record(benches))


def kept(bundle: Bundle) -> list[BenchRecord]:
    """The measurements that a bundle holds, those that can be read; none where the whole record cannot."""
    try:
        content = bundle.report(BENCHES)
        benches = None if content is None else record_from_json(content, _Benches, BENCHES)
    except BundleError:
        return []
    if benches is None:
        return []
    runs = benches.runs if benches.record_version == RECORD_VERSION else []
    return [record for record in map(_readable, runs) if record is not None]


def context_bytes(bundle: Bundle, backend: Backend, device: str | None = None) -> int | None:
    """CUDA's context and the loaded kernels, as ``bench`` measured them of a bundle on a device."""
    title = backend.device_title(backend.device(device))
    held = (run for run in kept(bundle) if (run.backend, run.machine.device) == (backend.name, title))
    return max((run.memory.device.context_bytes for run in held if run.memory.device), default=None)


def rows_of(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """A row for every measurement: what ran where, its latency and throughput, memory predicted and measured."""
    for run in kept(bundle):
        device = run.memory.device
        memory = device.session_bytes if device else run.memory.above_empty_process_bytes
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
            "standing": of_digests(run.files, bundle).value,
        }


def _readable(run: msgspec.Raw) -> BenchRecord | None:
    try:
        return record_from_json(bytes(run), BenchRecord, BENCHES)
    except BundleError:
        return None


def _predicted_mib(bundle: Bundle, run: BenchRecord) -> float | None:
    try:
        planned = plan(bundle, run.backend, run.precision)
    except (InputError, BackendError):
        return None
    peaks = (candidate.peak_bytes for candidate in planned.candidates if candidate.schedule == run.schedule)
    return next((peak / 2**20 for peak in peaks), None)
