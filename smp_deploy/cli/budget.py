"""Which schedule a command takes: the one that is named, or the one that a memory budget leaves."""

from __future__ import annotations

import click

from engines.backends.onnxruntime import import_onnxruntime
from engines.errors import InputError
from engines.manifest import Lowering, Manifest, Precision
from engines.planner import plan, shown_bytes
from engines.schedules import Schedule, resolved_schedule
from smp_deploy.cli.console import note
from smp_deploy.peak_memory import current_peak_bytes


def chosen_schedule(
    manifest: Manifest,
    *,
    levels: int | None,
    sub_batch: int | None,
    lowering: str | None,
    memory: int | None,
    precision: Precision,
    backend: str,
) -> Schedule:
    """The schedule for ``--memory``, or else for ``--levels``, ``--sub-batch`` and ``--lowering``.

    On the CPU the budget is that of the whole process: what it holds already is taken off. On a GPU it is device
    memory.

    Raises ``click.UsageError`` when both are given, and what :func:`engines.planner.plan` raises.
    """
    if memory is None:
        return resolved_schedule(manifest, levels, sub_batch, Lowering(lowering) if lowering else None)
    if (levels, sub_batch, lowering) != (None, None, None):
        raise click.UsageError("--memory chooses the schedule; leave out --levels, --sub-batch and --lowering")
    held = process_bytes() if backend == "onnxruntime" else 0
    if memory <= held:
        raise InputError(
            f"the process itself holds {shown_bytes(held)}, and the budget is {shown_bytes(memory)}; "
            "give --memory more than that"
        )
    try:
        planned = plan(manifest, memory - held, precision=precision, backend=backend)
    except InputError as error:
        besides = f" (--memory {shown_bytes(memory)}, of which the process holds {shown_bytes(held)})" if held else ""
        raise InputError(f"{error}{besides}") from error
    assert planned.choice is not None
    peak = shown_bytes(held + planned.choice.peak_bytes)
    note(f"schedule: {planned.choice.schedule}; predicted peak {peak} of {shown_bytes(memory)}")
    return planned.choice.schedule


def process_bytes() -> int:
    """What this process holds before it opens a bundle, ONNX Runtime imported."""
    import_onnxruntime()
    return current_peak_bytes()
