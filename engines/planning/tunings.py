"""Tunings: which schedule was measured to be the fastest, and whether it was on a machine like this one."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.backends import flavour_of
from engines.backends.onnxruntime import import_onnxruntime
from engines.backends.tensorrt.flavours import import_tensorrt
from engines.bundle.manifest import Manifest, Precision, TuningRecord
from engines.devices.gpus import gpus
from engines.executors.opening import engine_schedules
from engines.schedules.schedule import Schedule, default_schedule


@dataclass(frozen=True)
class ChosenSchedule:
    """A schedule that nobody asked for by name, and why it is this one."""

    schedule: Schedule
    reason: str
    tuned: bool


def chosen_schedule(manifest: Manifest, backend: str, precision: Precision) -> ChosenSchedule:
    """The fastest schedule where the bundle was tuned for this device, backend, precision and runtime.

    Elsewhere, for TensorRT, that of the bundle's engine where it has only one of this precision, and
    the bundle's default in all other cases: a tuning of another machine is no better than a guess. Raises
    :class:`InputError` for an unknown backend, and :class:`MissingDependency` when the bundle has a tuning for the
    backend and its runtime is missing.
    """
    default, kind = default_schedule(manifest), "default"
    flavour = flavour_of(backend)
    held_engines = engine_schedules(manifest, flavour, precision) if flavour is not None else []
    if len(held_engines) == 1:
        default, kind = held_engines[0], "one engine"
    near = _tunings(manifest, backend, precision)
    if not near:
        reason = f"the bundle's {kind}; it is not tuned for {backend}, {precision.value}"
        return ChosenSchedule(default, reason, tuned=False)
    device, runtime = device_of(backend), runtime_of(backend)
    for held in near:
        if (held.device, held.runtime) == (device, runtime):
            best = held.measurements[0]
            schedule = Schedule(best.levels, best.sub_batch, best.lowering)
            return ChosenSchedule(schedule, f"tuned on this device: {device}, {runtime}", tuned=True)
    tuned_on = "; ".join(f"{held.device}, {held.runtime}" for held in near)
    reason = f"the bundle's {kind}; it is tuned for {tuned_on}, and this is {device}, {runtime}"
    return ChosenSchedule(default, reason, tuned=False)


def measured_seconds(manifest: Manifest, backend: str, precision: Precision) -> Callable[[Schedule], float | None]:
    """How long a frame took in a schedule, in seconds, where the bundle was tuned on this device; else ``None``."""
    near = _tunings(manifest, backend, precision)
    here = (device_of(backend), runtime_of(backend)) if near else None
    known = {
        Schedule(entry.levels, entry.sub_batch, entry.lowering): float(np.median(entry.frame_ms)) / 1000
        for held in near
        if (held.device, held.runtime) == here
        for entry in held.measurements
    }
    return known.get


def _tunings(manifest: Manifest, backend: str, precision: Precision) -> list[TuningRecord]:
    """Of every device and runtime."""
    return [held for held in manifest.tunings if (held.backend, held.precision) == (backend, precision)]


def device_of(backend: str) -> str:
    """What does the work of a backend: the first GPU's name, or the processor's and the cores that it may use."""
    if backend == "onnxruntime":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return f"{processor_name()}, {cores} cores"
    return gpus()[0].name if gpus() else "no GPU"


def runtime_of(backend: str) -> str:
    """Name and version of a backend's runtime. Raises :class:`MissingDependency`."""
    wanted = flavour_of(backend)
    if wanted is None:
        return f"onnxruntime {import_onnxruntime().__version__}"
    flavour, module = import_tensorrt(wanted)
    return f"{flavour.value} {module.__version__}"


def processor_name() -> str:
    """The processor as the system names it; its architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        field, _, value = line.partition(":")
        # ARM's kernels give no name but the numbers of implementer and part.
        if field.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()
