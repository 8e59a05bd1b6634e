"""Which schedule a command takes: the one that its options name, that a budget leaves, or the bundle's choice."""

from __future__ import annotations

from dataclasses import dataclass

from engines.backends.onnxruntime import import_onnxruntime
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Lowering, Precision
from engines.errors import InputError
from engines.planning.planner import plan, shown_bytes
from engines.planning.tunings import ChosenSchedule, chosen_schedule, measured_seconds
from engines.schedules.schedule import resolved_schedule
from smp_deploy.benchmarking.peak_memory import current_peak_bytes


@dataclass(frozen=True)
class ScheduleOptions:
    """What ``--levels``, ``--lowering``, ``--sub-batch`` and ``--memory`` say; ``None`` where one is not given."""

    levels: int | None = None
    lowering: Lowering | None = None
    sub_batch: int | None = None
    memory_bytes: int | None = None

    @classmethod
    def of(
        cls, levels: int | None, lowering: Lowering | None, sub_batch: int | None, memory_bytes: int | None
    ) -> ScheduleOptions:
        """From the options of a command. Raises :class:`InputError` for a budget beside a named schedule."""
        named = (levels, lowering, sub_batch)
        if memory_bytes is not None and named != (None, None, None):
            raise InputError("--memory chooses the schedule; leave out --levels, --sub-batch and --lowering")
        return cls(*named, memory_bytes)


def asked_schedule(
    bundle: Bundle, backend: str, precision: Precision, options: ScheduleOptions
) -> ChosenSchedule | None:
    """The schedule that the options name in full or in part, or that fits their budget; ``None`` without any of them.

    On the CPU a budget is that of the whole process: what it holds already is taken off. On a GPU it is device
    memory. Raises what :func:`engines.planning.planner.plan` raises.
    """
    if options == ScheduleOptions():
        return None
    if options.memory_bytes is None:
        schedule = resolved_schedule(bundle.manifest, options.levels, options.sub_batch, options.lowering)
        return ChosenSchedule(schedule, "asked for", tuned=False)
    held = process_bytes() if backend == "onnxruntime" else 0
    budget = shown_bytes(options.memory_bytes)
    if options.memory_bytes <= held:
        raise InputError(
            f"the process itself holds {shown_bytes(held)}, and the budget is {budget}; give --memory more than that"
        )
    seconds = measured_seconds(bundle.manifest, backend, precision)
    try:
        planned = plan(
            bundle.manifest, options.memory_bytes - held, precision=precision, backend=backend, seconds=seconds
        )
    except InputError as error:
        besides = f" (--memory {budget}, of which the process holds {shown_bytes(held)})" if held else ""
        raise InputError(f"{error}{besides}") from error
    assert planned.choice is not None
    peak = shown_bytes(held + planned.choice.peak_bytes)
    reason = f"predicted peak {peak} of {budget}; {planned.reason}"
    return ChosenSchedule(planned.choice.schedule, reason, seconds(planned.choice.schedule) is not None)


def session_schedule(bundle: Bundle, backend: str, precision: Precision, options: ScheduleOptions) -> ChosenSchedule:
    """As :func:`asked_schedule`; without options the schedule that a session takes by itself."""
    return asked_schedule(bundle, backend, precision, options) or chosen_schedule(bundle.manifest, backend, precision)


def process_bytes() -> int:
    """What this process holds before it opens a bundle, ONNX Runtime imported."""
    import_onnxruntime()
    return current_peak_bytes()
