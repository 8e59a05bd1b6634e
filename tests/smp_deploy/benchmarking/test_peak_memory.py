"""Peaks of memory, measured in processes of their own, and the planner's prediction of one."""

from __future__ import annotations

import pytest

from engines import Bundle, Schedule
from engines.backends.memory import MIB
from engines.errors import BackendError
from engines.planning.planner import plan
from smp_deploy.benchmarking.peak_memory import (
    ENOUGH_SUB_BATCHES,
    current_bytes,
    current_peak_bytes,
    peak_of,
    session_peak,
)


def test_the_peak_of_a_known_allocation() -> None:
    # The bytes are freed before the process is asked: a peak remembers them.
    peak = peak_of("builtins:exec", f"len(b'x' * {64 * MIB})")
    # An interpreter has some pages of its own free, which they may take.
    assert 63 * MIB <= peak.work_bytes < 80 * MIB
    assert peak.returned is None
    assert 0 < current_bytes() <= current_peak_bytes()


def test_what_the_work_returns_and_how_it_fails() -> None:
    assert peak_of("operator:add", 2, 3).returned == 5
    with pytest.raises(BackendError, match="operator:truediv failed with exit code 1: ZeroDivisionError"):
        peak_of("operator:truediv", 1, 0)
    with pytest.raises(BackendError, match=r"work is package\.module:function; received 'operator'"):
        peak_of("operator")
    with pytest.raises(BackendError, match=r"time:sleep took more than 1 s; its memory was not measured"):
        peak_of("time:sleep", 60, timeout_s=1)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_empty_process_has_the_runtime_of_the_backend_alone(runtime: str) -> None:
    pytest.importorskip(runtime, reason=f"not run: {runtime} is not installed")
    loaded = "sorted({'onnxruntime', 'openvino', 'numpy'} & set(__import__('sys').modules))"
    assert peak_of("builtins:eval", loaded, backend=runtime).returned == sorted(["numpy", runtime])


def test_a_session_is_measured_on_the_device_that_is_asked_for(exported: Bundle) -> None:
    with pytest.raises(BackendError, match='onnxruntime computes on cpu; received device="cuda:1"'):
        session_peak(exported.path, Schedule(2, 1), device="cuda:1")


def test_a_predicted_peak_is_the_measured_one(broad: Bundle) -> None:
    one, four = Schedule(2, 1), Schedule(2, 4)
    peaks = {candidate.schedule: candidate.peak_bytes for candidate in plan(broad).candidates}
    measured = {schedule: session_peak(broad.path, schedule) for schedule in (one, four)}
    # One sub-batch of four is a quarter of a frame: the frames go on until there were enough of them.
    assert [peak.returned["sub_batches"] for peak in measured.values()] == [ENOUGH_SUB_BATCHES] * 2
    # Three phases more are three windows, 5% of this, and the tensors inside the trunk.
    more = measured[four].work_bytes - measured[one].work_bytes
    assert more > 50 * MIB
    assert (peaks[four] - peaks[one]) / more == pytest.approx(1, abs=0.03)
    # What a session takes anyway, 22 MiB, was found on networks of more layers: this one takes 8 MiB less.
    assert 1 <= peaks[four] / measured[four].work_bytes < 1.12
