"""Rates: a session's frames against its trunk alone, and those of matrix products, which bound what can be reached."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from engines import Precision, Schedule, Session
from engines.errors import SmpDeployError, WorkFailed
from engines.executors.device import DeviceExecutor
from engines.executors.timing import stage_marks
from engines.schedules.phases import Phase
from gpu.results import Job, Row
from gpu.sessions import PARITY, Bench, Subject, frame_to_frame_ms, opened

FRAMES, MATRIX = "frames", "matrix"

_FRAMES, _LONGEST_S = 100, 20.0
"""As many frames as that, or at least ten where they take longer."""


def frames_job(subject: Subject, bench: Bench, rows: Sequence[Row], frames: int = _FRAMES) -> Job:
    """Many frames in the schedule that was fastest among ``rows``, when its turn has come."""

    def measure(row: Row) -> Row:
        if reason := bench.refused.get(subject.backend.name):
            return row.ended("not run", reason)
        schedule = fastest(rows, subject)
        if schedule is None:
            return row.ended("not run", "no schedule was measured")
        try:
            session = opened(subject, schedule=schedule)
        except WorkFailed as error:
            return row.ended("failed", f"broke: {error}")
        except SmpDeployError as error:
            return row.ended("not run", str(error))
        with session:
            try:
                return _against_trunk(row, session, subject.frame, frames)
            except SmpDeployError as error:
                return row.ended("failed", f"broke: {error}")

    return Job(subject.row(FRAMES), measure)


def fastest(rows: Sequence[Row], subject: Subject) -> Schedule | None:
    """Of the schedules that were right."""
    key = subject.row(PARITY)
    right = {
        row.schedule: row.figures["latency_ms"]
        for row in rows
        if (row.kind, row.what, row.bundle, row.precision) == (PARITY, key.what, key.bundle, key.precision)
        and row.status == "passed"
    }
    known = [schedule for schedule in subject.schedules() if str(schedule) in right]
    return min(known, key=lambda schedule: right[str(schedule)], default=None)


def _against_trunk(row: Row, session: Session, frame: np.ndarray, frames: int) -> Row:
    executor = session.executor
    if not isinstance(executor, DeviceExecutor):
        return row.ended("not run", "a trunk's own time is known on a device with marks in its work alone")
    groups = session.grid.sub_batches(session.schedule.sub_batch)
    session.predict(frame)
    trunk_ms = statistics.median(trunk_time_ms(executor, frame, groups) for _ in range(5))
    frames = min(frames, max(10, int(_LONGEST_S * 1000 / trunk_ms)))
    frame_ms = frame_to_frame_ms(session, frame, frames)
    figures = {"schedule": str(session.schedule), "frames": frames, "frame_ms": frame_ms, "trunk_ms": trunk_ms}
    return row.ended("passed", "", **figures, ratio=frame_ms / trunk_ms)


def trunk_time_ms(executor: DeviceExecutor, frame: np.ndarray, groups: list[list[Phase]]) -> float:
    """Milliseconds that the trunk takes for all sub-batches of a frame, by the device's clock.

    All are queued before any is waited for, so the device has no need to wait for the host.
    """
    with stage_marks(executor, frame) as marks:
        for index, phases in enumerate(groups):
            executor.submit(0, phases, index % executor.slots)
        executor.wait((len(groups) - 1) % executor.slots)
        return sum(
            executor.device.elapsed_ms(before, after)
            for (_, before), (stage, after) in pairwise(marks)
            if stage == "trunk"
        )


def matrix_jobs(bench: Bench, device: str, size: int) -> list[Job]:
    """Square matrix products in PyTorch, in every precision; what they reach is remembered for the other rows."""

    def measure_in(precision: Precision) -> Callable[[Row], Row]:
        def measure(row: Row) -> Row:
            try:
                import torch
            except ImportError as error:
                return row.ended("not run", f"{error.name} is not installed")
            if device == "cuda" and not torch.cuda.is_available():
                return row.ended("not run", "PyTorch sees no CUDA device")
            rate = matrix_rate(precision, size, device)
            bench.matrix_rates[precision.value] = rate
            return row.ended("passed", "", size=size, operations_per_s=rate)

        return measure

    precisions = (Precision.FP16, Precision.TF32, Precision.FP32) if device == "cuda" else (Precision.FP32,)
    return [
        Job(Row(MATRIX, "torch.matmul", precision=precision.value), measure_in(precision)) for precision in precisions
    ]


def matrix_rate(precision: Precision, size: int, device: str, repeats: int = 10) -> float:
    """Operations a second of products of square matrices: two for a multiply-accumulate, as a trunk's are counted."""
    import torch

    with_tf32(precision is Precision.TF32)
    dtype = torch.float16 if precision is Precision.FP16 else torch.float32
    a, b = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    out: Any = torch.empty_like(a)

    def finished() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for _ in range(3):
        torch.matmul(a, b, out=out)
    started = finished()
    for _ in range(repeats):
        torch.matmul(a, b, out=out)
    seconds = (finished() - started) / repeats
    del a, b, out
    if device == "cuda":
        torch.cuda.empty_cache()
    return 2 * size**3 / seconds


def with_tf32(allowed: bool) -> None:
    """Whether PyTorch may cut single precision to TF32: it does so in convolutions unless it is told not to."""
    import torch

    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
