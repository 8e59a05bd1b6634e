"""``smp-deploy tune``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from engines.backends import BACKENDS
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import TuningRecord
from engines.schedules.schedule import Lowering, Precision
from engines.bundle.records import builtins_from_record
from engines.planning.planner import plan
from engines.schedules.schedule import Schedule, default_schedule
from smp_deploy.cli.bench import frames_of, machine_of
from smp_deploy.cli.console import note, print_json, print_table, progress
from smp_deploy.cli.options import (
    FiniteRange,
    MemoryType,
    bundle_argument,
    images_option,
    json_option,
    precision_option,
)

if TYPE_CHECKING:
    from smp_deploy.benchmarking.tuner import Missing


@click.command("tune", short_help="Measure the schedules and record the fastest.")
@bundle_argument
@click.option(
    "--backend", type=click.Choice(BACKENDS), default="onnxruntime", show_default=True, help="What runs the graphs."
)
@precision_option
@click.option(
    "--levels",
    type=click.IntRange(0),
    multiple=True,
    help="Levels to compare; may be given several times.  [default: those that repeat no work]",
)
@click.option(
    "--lowering",
    "lowerings",
    type=click.Choice([lowering.value for lowering in Lowering]),
    multiple=True,
    help="Lowerings to compare; may be given several times.  [default: all]",
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Measurements of each schedule.")
@click.option(
    "--duration",
    "duration_s",
    type=FiniteRange(0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="S",
    help="Of one measurement; a frame that takes longer is cut short, and its time extrapolated.",
)
@click.option(
    "--memory",
    type=MemoryType(),
    help="Compare only schedules with a predicted peak within this.  [default: half of what is free]",
)
@images_option
@json_option
def tune_command(bundle: Path, **options: Any) -> dict[str, Any]:
    """Measure the schedules of BUNDLE on this machine and record the fastest in it.

    Every lowering and sub-batch of the levels that repeat no work is a candidate, unless its predicted peak is more
    than half of what is free, or than --memory. Rounds are interleaved; what is hopeless after a round is dropped.
    From then on `run`, `bench` and sessions use the winner on this device with this runtime.
    """
    from smp_deploy.benchmarking.tuner import TuningConfig, missing_trunks, tune

    opened, backend = Bundle.open(bundle), options["backend"]
    opened.check_writable()
    precision = Precision(options["precision"])
    config = TuningConfig(
        backend=backend,
        precision=precision,
        rounds=options["rounds"],
        seconds=options["duration_s"],
        levels=options["levels"],
        lowerings=tuple(Lowering(name) for name in options["lowerings"]),
        fits=_fits(opened, backend, precision, options["memory"]),
    )
    frame = frames_of(opened, options["images"])[0]
    with progress("measurements") as advance:
        tuning = tune(opened, frame, config, advance)
    opened.with_tuning(tuning)
    missing = missing_trunks(opened.manifest, config)
    document = {
        "bundle": str(bundle),
        "tuning": msgspec.to_builtins(tuning),
        "missing": [{"levels": m.levels, "lowering": m.lowering.value} for m in missing],
        "machine": builtins_from_record(machine_of(backend)),
    }
    if options["as_json"]:
        print_json(document)
    else:
        _print(opened, tuning, missing)
    return document


def _fits(bundle: Bundle, backend: str, precision: Precision, budget_bytes: int | None) -> Callable[[Schedule], bool]:
    """Whether a schedule may be tried: by its predicted peak, and within half of what is free without a budget."""
    from smp_deploy.machine import available_bytes

    candidates = plan(bundle.manifest, precision=precision, backend=backend).candidates
    peaks = {candidate.schedule: candidate.peak_bytes for candidate in candidates}
    free = available_bytes() if backend == "onnxruntime" else None
    limit = budget_bytes if budget_bytes is not None else None if free is None else free // 2
    # A built engine may have a sub-batch that is no candidate of the planner; it is there to be tried.
    return lambda schedule: limit is None or peaks.get(schedule, 0) <= limit


def _print(bundle: Bundle, tuning: TuningRecord, missing: list[Missing]) -> None:
    from smp_deploy.benchmarking.statistics import median

    medians = {Schedule(m.levels, m.sub_batch, m.lowering): median(m.frame_ms) for m in tuning.measurements}
    winner = next(iter(medians))
    default = default_schedule(bundle.manifest)
    # An engine for the default may not have been built.
    default = default if default in medians else winner
    print_table(TUNING_COLUMNS, tuning_rows(tuning, medians[default]))
    print_table(
        ("fastest", str(winner)),
        [
            ("against the default", f"{medians[default] / medians[winner]:.2f} times as fast as {default}"),
            ("holds for", f"{tuning.device}; {tuning.runtime}, {tuning.precision.value}"),
        ],
    )
    if missing:
        shown = ", ".join(f"{m.levels} {m.lowering.value}" for m in missing)
        levels = " ".join(f"--levels {level}" for level in sorted({trunk.levels for trunk in bundle.manifest.trunks}))
        lowerings = " ".join(f"--lowering {lowering.value}" for lowering in Lowering)
        note(f"not compared, since the bundle has no such trunks: {shown}; export adds them with {levels} {lowerings}")


TUNING_COLUMNS = ("levels", "lowering", "sub-batch", "median, ms", "spread", "speed", "rounds")


def tuning_rows(tuning: TuningRecord, default_ms: float) -> list[tuple[Any, ...]]:
    """The measurements as rows of a table with :data:`TUNING_COLUMNS`; speed is relative to the default's."""
    from smp_deploy.benchmarking.statistics import median, spread

    rounds = max(len(m.frame_ms) for m in tuning.measurements)
    rows = []
    for m in tuning.measurements:
        value, runs = median(m.frame_ms), len(m.frame_ms)
        shown = f"{runs}" if runs == rounds else f"{runs}, dropped"
        rows.append(
            (m.levels, m.lowering.value, m.sub_batch, f"{value:.1f}", f"{spread(m.frame_ms):.0%}",
             f"{default_ms / value:.2f}", shown)
        )  # fmt: skip
    return rows
