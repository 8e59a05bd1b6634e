"""``bench`` as a function: a typed record, kept in the bundle or not."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from engines import Bundle, Lowering, Schedule
from engines.bundle.records import DeviceMemory
from engines.errors import InputError, MachineError
from smp_deploy.benchmarking import peak_memory
from smp_deploy.benchmarking.bench import bench
from smp_deploy.reports.benches import kept

MIB = 2**20
SHORT = {"warm_up_ms": 0.0, "duration_s": 0.0, "iterations": 3}


def test_a_record_holds_what_was_measured_and_is_kept(bundle: Path) -> None:
    seen: list[tuple[int, int]] = []
    chosen = Schedule(2, 4, Lowering.DILATED)
    record = bench(bundle, schedule=chosen, on_progress=lambda done, total: seen.append((done, total)), **SHORT)
    assert seen[-1] == (3, 3)
    assert (record.network, record.size, record.iterations) == ("smp-resnet18", (64, 96), 3)
    assert (record.schedule, record.reason) == (chosen, "asked for")
    latency = record.latency_ms
    assert 0 < latency.min <= latency.median <= latency.percentiles["99"] <= latency.max
    assert record.throughput.frames_per_s == pytest.approx(1000 / latency.mean)
    assert record.throughput.megapixels_per_s == pytest.approx(record.throughput.frames_per_s * 64 * 96 / 1e6)
    assert record.memory.above_empty_process_bytes is not None
    assert 0 < record.memory.above_empty_process_bytes < (record.memory.process_bytes or 0) < 2**30
    # What is read is what was written.
    assert kept(Bundle.open(bundle)) == [record]


def test_a_record_is_kept_only_if_asked(bundle: Path, frame: np.ndarray) -> None:
    record = bench(bundle, frames=[frame], keep=False, **SHORT)
    assert record.reason.startswith("the bundle's default; it is not tuned")
    assert not kept(Bundle.open(bundle))


def test_memory_is_measured_on_the_device_of_the_latencies(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    def measured(*_: object, **options: object) -> NoReturn:
        asked.update(options)
        raise MachineError("not here")

    monkeypatch.setattr("smp_deploy.benchmarking.bench.session_peak", measured)
    record = bench(exported, device="cpu", keep=False, **SHORT)
    assert (asked["backend"], asked["device"]) == ("onnxruntime", "cpu")
    assert record.memory.not_measured == "not here"


def test_a_budget_bounds_the_device_where_there_is_one(exported: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    on_device = {"session_bytes": 300 * MIB, "context_bytes": 550 * MIB, "measured_by": "NVML"}
    peak = peak_memory.PeakMemory(50 * MIB, 900 * MIB, {"device": on_device})
    monkeypatch.setattr("smp_deploy.benchmarking.bench.session_peak", lambda *_, **options: peak)
    within, passed = (bench(exported, memory=size, keep=False, **SHORT).memory for size in (300 * MIB, 300 * MIB - 1))
    assert within.device == DeviceMemory(**on_device)
    assert (within.bounded_bytes, within.over_budget, passed.over_budget) == (300 * MIB, False, True)
    # Without a device's figure it is the process.
    peak = peak_memory.PeakMemory(50 * MIB, 900 * MIB, {"device": None})
    of_process = bench(exported, memory=900 * MIB, keep=False, **SHORT).memory
    assert (of_process.bounded_bytes, of_process.over_budget) == (900 * MIB, False)


def test_a_length_that_is_none_is_refused(exported: Bundle) -> None:
    with pytest.raises(InputError, match="iterations at least 1"):
        bench(exported, iterations=0, keep=False)
