"""Which schedule a command takes: the one that its options name, else the bundle's fastest here."""

from __future__ import annotations

import click

from engines.bundle import Bundle
from engines.manifest import Lowering, Precision
from engines.schedules import resolved_schedule
from engines.tuning import ChosenSchedule, chosen_schedule


def asked_schedule(
    bundle: Bundle, backend: str, precision: Precision, levels: int | None, lowering: str | None, sub_batch: int | None
) -> ChosenSchedule:
    """The schedule of ``--levels``, ``--lowering`` and ``--sub-batch``; without any of them the bundle's choice."""
    source = click.get_current_context().get_parameter_source("sub_batch")
    named = sub_batch is not None and source is not click.core.ParameterSource.DEFAULT
    if levels is None and lowering is None and not named:
        return chosen_schedule(bundle.manifest, backend, precision)
    schedule = resolved_schedule(bundle.manifest, levels, sub_batch, Lowering(lowering) if lowering else None)
    return ChosenSchedule(schedule, "asked for", tuned=False)
