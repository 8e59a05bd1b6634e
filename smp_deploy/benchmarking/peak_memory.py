"""The largest memory that a piece of work ever holds, measured in a process of its own.

A process that has run before holds freed memory, loaded libraries and warm caches; a fresh one holds what the work
needs. The figure is the peak of its resident set (``VmHWM`` in Linux's ``/proc/self/status``) above that of an empty
process: an interpreter with numpy and the backend's runtime imported.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from engines.backends import DEFAULT_BACKEND, backend_named
from engines.backends.base import Backend, Kind
from engines.bundle.records import DeviceMemory
from engines.errors import BackendError, InputError, MachineError
from engines.schedules.schedule import Precision, Schedule
from smp_deploy.benchmarking.device_memory import Gauge, PeakWatch, gauge_of_gpu

ENOUGH_SUB_BATCHES = 3
"""From the second on, ONNX Runtime knows which tensors there will be; the third shows that nothing grows."""


@dataclass(frozen=True)
class PeakMemory:
    """Peaks of one process, in bytes."""

    empty_bytes: int
    """Before the work, with numpy and the backend's runtime imported."""
    peak_bytes: int
    """After it."""
    returned: Any = None
    """What the work returned."""

    @property
    def work_bytes(self) -> int:
        """What the work took: the peak above the empty process."""
        return self.peak_bytes - self.empty_bytes


def peak_of(work: str, *arguments: object, backend: str = DEFAULT_BACKEND, timeout_s: float = 540) -> PeakMemory:
    """Call ``work(*arguments)`` in a fresh process and give the peaks of its memory.

    Args:
        work: ``"package.module:function"``; the process finds the modules that this one finds, but for those of the
            working directory, which are found where ``PYTHONPATH`` names it.
        arguments: what msgspec can write as JSON: numbers, strings, lists, dictionaries, enums, dataclasses. They
            arrive as plain values, and so does what the function returns.
        backend: whose runtime an empty process has imported.
        timeout_s: the process is ended when it takes longer.

    Raises:
        BackendError: the work failed; the message ends with its last line.
        MachineError: this is no Linux.
    """
    current_peak_bytes()
    task = {"work": work, "arguments": arguments, "backend": backend}
    # Isolated, Python looks for modules neither in the working directory nor where the environment says.
    command = [sys.executable, "-I", "-c", _START, json.dumps(_module_folders()), str(os.getpid())]
    try:
        # Names of files need not be text: what no encoding has is escaped.
        content = json.dumps(msgspec.to_builtins(task)).encode()
        result = subprocess.run(command, input=content, capture_output=True, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"{work} took more than {timeout_s:.0f} s; its memory was not measured") from error
    if result.returncode:
        said = result.stderr.decode(errors="replace").strip().splitlines()
        raise BackendError(f"{work} failed with exit code {result.returncode}: {said[-1] if said else 'no message'}")
    return PeakMemory(**json.loads(result.stdout.splitlines()[-1]))


_START = """\
import ctypes, json, os, sys
# The end of this process's parent is its own, however that ends.
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[2]):
    sys.exit(1)
folders = json.loads(sys.argv[1])
sys.path[:] = folders + [folder for folder in sys.path if folder not in folders]
from smp_deploy.benchmarking.peak_memory import answer
answer()
"""


def _module_folders() -> list[str]:
    """Where this process finds modules, absolute; the working directory only where the user's ``PYTHONPATH`` names it.

    Python itself puts it first under ``-c`` and ``-m``, and a network of one's own is looked for there: what lies there
    may come from anybody, and none of it is needed here.
    """
    here = os.path.realpath(Path.cwd())
    named = [os.path.realpath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    folders = [str(Path(path).absolute()) for path in sys.path if path]
    return [folder for folder in folders if here in named or os.path.realpath(folder) != here]


def session_peak(
    bundle: Path,
    schedule: Schedule,
    *,
    precision: Precision = Precision.FP32,
    backend: str = DEFAULT_BACKEND,
    device: str | None = None,
    memory: int | str | None = None,
    sub_batches: int = ENOUGH_SUB_BATCHES,
) -> PeakMemory:
    """The peak of opening a bundle and labelling frames of noise, up to so many sub-batches.

    ``returned["sub_batches"]`` is how many there were and ``returned["device"]``, on a GPU that can be asked, what was
    taken of it, as :class:`DeviceMemory` has it.

    Raises what :func:`peak_of` raises.
    """
    named = [schedule.levels, schedule.sub_batch, schedule.lowering.value]
    work = "smp_deploy.benchmarking.peak_memory:_label_noise"
    return peak_of(work, str(bundle), named, precision.value, backend, device, memory, sub_batches, backend=backend)


def current_peak_bytes() -> int:
    """The peak of this process's resident set so far. Raises :class:`MachineError` where there is no /proc."""
    # psutil has no peak on Linux, and the one of getrusage outlives exec: a child would begin with its parent's.
    field = "VmHWM"
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except (OSError, StopIteration) as error:
        raise MachineError(f"memory is measured from /proc/self/status ({field}), which this system has not") from error


def current_bytes() -> int:
    """This process's resident set."""
    return int(psutil.Process().memory_info().rss)


class _EnoughError(Exception):
    """Ends a prediction whose peak is known."""


def _label_noise(
    bundle: str,
    schedule: Sequence[Any],
    precision: str,
    backend: str,
    device: str | None,
    memory: int | str | None,
    sub_batches: int,
) -> dict[str, Any]:
    import numpy as np

    from engines.schedules.schedule import Lowering
    from engines.session import Session

    levels, size, lowering = schedule
    wanted, steps = Schedule(levels, size, Lowering(lowering)), 0
    gauge = _gauge_of(backend_named(backend), device)

    def count(done: int, total: int) -> None:
        nonlocal steps
        steps += 1
        if steps == sub_batches:
            raise _EnoughError

    with (
        PeakWatch(gauge) as watch,
        Session.open(
            bundle, backend, precision=Precision(precision), schedule=wanted, memory=memory, device=device
        ) as session,
    ):
        frame = np.random.default_rng(0).integers(0, 256, (*session.grid.frame_size, 3), dtype=np.uint8)
        with contextlib.suppress(_EnoughError):
            # A large sub-batch is all of a frame: the next frames are further sub-batches then.
            while True:
                session.predict(frame, on_progress=count)
    del session
    taken = watch.taken()
    returned: dict[str, Any] = {"sub_batches": steps, "device": None}
    if gauge is not None and taken is not None:
        returned["device"] = DeviceMemory(
            session_bytes=taken.session, context_bytes=taken.stays, measured_by=gauge.name
        )
    return returned


def _gauge_of(backend: Backend, device: str | None) -> Gauge | None:
    """What measures the memory of a backend's device; ``None`` on a CPU, and where nothing does."""
    if backend.kind is not Kind.GPU:
        return None
    with contextlib.suppress(MachineError):
        return gauge_of_gpu(backend.device(device).index)
    return None


def answer() -> None:
    """What the fresh process does: the task on stdin, its peaks on stdout."""
    task = json.loads(sys.stdin.buffer.read())
    # To say its version a runtime is imported, and numpy with it.
    backend_named(task["backend"]).runtime()
    empty = current_peak_bytes()
    module, _, function = task["work"].partition(":")
    if not function:
        raise InputError(f"work is package.module:function; received {task['work']!r}")
    returned = getattr(importlib.import_module(module), function)(*task["arguments"])
    peaks = PeakMemory(empty, current_peak_bytes(), returned)
    print(msgspec.json.encode(peaks).decode())
