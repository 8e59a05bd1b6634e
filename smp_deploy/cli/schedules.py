"""Which schedule a command takes: what its options say, given to :func:`engines.choose_schedule`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from engines.bundle.bundle import Bundle
from engines.planning.choice import ChosenSchedule, choose_schedule
from engines.schedules.schedule import Precision


def session_schedule(bundle: Bundle, backend: str, precision: Precision, options: Mapping[str, Any]) -> ChosenSchedule:
    """The schedule that the options name in part, that fits ``--memory``, or that the bundle chooses."""
    named = {name: options[name] for name in ("levels", "lowering", "sub_batch")}
    if options["memory"] is not None and any(value is not None for value in named.values()):
        raise click.UsageError("--memory chooses the schedule; leave out --levels, --sub-batch and --lowering")
    return choose_schedule(bundle, backend, precision, memory=options["memory"], **named)
