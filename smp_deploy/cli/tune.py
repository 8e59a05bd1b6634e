"""``smp-deploy tune``."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engines.backends import DEFAULT_BACKEND, backend_named
from engines.bundle.manifest import TuningRecord
from engines.bundle.records import builtins_from_record
from engines.planning.choice import named_schedule
from engines.schedules.schedule import Lowering, Precision
from smp_deploy.cli.console import note, print_json, print_table, progress
from smp_deploy.cli.opening import opened_bundle
from smp_deploy.cli.options import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    ImagesOption,
    JsonOption,
    PrecisionOption,
    TrustOption,
    above_zero,
    frames_of,
    memory_option,
)

if TYPE_CHECKING:
    from smp_deploy.benchmarking.tuner import TuningResult


def tune_command(
    bundle: BundleArgument,
    backend: BackendOption = DEFAULT_BACKEND,
    precision: PrecisionOption = Precision.FP32,
    levels: Annotated[
        list[int] | None,
        typer.Option(
            "--levels",
            min=0,
            metavar="N",
            help="Levels to compare; may be given several times.  [default: those that repeat no work]",
        ),
    ] = None,
    lowerings: Annotated[
        list[Lowering] | None,
        typer.Option("--lowering", help="Lowerings to compare; may be given several times.  [default: all]"),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, metavar="N", help="Measurements of each schedule.")] = 5,
    duration_s: Annotated[
        float,
        typer.Option(
            "--duration",
            callback=above_zero,
            metavar="S",
            show_default=False,
            help="Of one measurement; a frame that takes longer is cut short, and its time extrapolated.  "
            "[default: 2.0; x>0]",
        ),
    ] = 2.0,
    memory: Annotated[
        int | None,
        memory_option(
            "Compare only schedules with a predicted peak within this.  "
            "[default: on a CPU half of what is free, on a GPU no limit]"
        ),
    ] = None,
    device: DeviceOption = None,
    images: ImagesOption = None,
    trust: TrustOption = None,
    as_json: JsonOption = False,
) -> dict[str, Any]:
    """Measure the schedules of BUNDLE on this machine and record the fastest in it.

    Every lowering and sub-batch of the levels that repeat no work is a candidate, unless its predicted peak is more
    than --memory, or without it on a CPU than half of what is free. Rounds are interleaved; what is hopeless after a
    round is dropped.
    From then on `run`, `bench` and sessions use the winner on this device with this runtime.
    """
    from smp_deploy.benchmarking.tuner import tune
    from smp_deploy.machine import measured_with

    opened = opened_bundle(bundle, trust)
    frames = frames_of(opened, images)
    with progress("measurements") as advance:
        result = tune(
            opened,
            backend,
            precision,
            frame=frames[0] if frames else None,
            levels=levels or (),
            lowerings=lowerings or (),
            rounds=rounds,
            seconds=duration_s,
            memory=memory,
            device=device,
            on_progress=advance,
        )
    document = {
        "bundle": str(bundle),
        "tuning": builtins_from_record(result.record),
        "missing": [{"levels": m.levels, "lowering": m.lowering.value} for m in result.missing],
        "machine": measured_with(backend_named(backend), device),
    }
    if as_json:
        print_json(document)
    else:
        _print(result)
    return document


def _print(result: TuningResult) -> None:
    tuning, manifest = result.record, result.bundle.manifest
    medians = {m.schedule: median(m.frame_ms) for m in tuning.measurements}
    winner = next(iter(medians))
    default = named_schedule(manifest)
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
    if result.missing:
        shown = ", ".join(f"{m.levels} {m.lowering.value}" for m in result.missing)
        levels = " ".join(f"--levels {level}" for level in sorted({trunk.levels for trunk in manifest.trunks}))
        lowerings = " ".join(f"--lowering {lowering.value}" for lowering in Lowering)
        note(f"not compared, since the bundle has no such trunks: {shown}; export adds them with {levels} {lowerings}")


TUNING_COLUMNS = ("levels", "lowering", "sub-batch", "median, ms", "spread", "speed", "rounds")


def tuning_rows(tuning: TuningRecord, default_ms: float) -> list[tuple[Any, ...]]:
    """The measurements as rows of a table with :data:`TUNING_COLUMNS`; speed is relative to the default's."""
    from smp_deploy.benchmarking.statistics import spread

    rounds = max(len(m.frame_ms) for m in tuning.measurements)
    rows = []
    for m in tuning.measurements:
        value, runs, schedule = median(m.frame_ms), len(m.frame_ms), m.schedule
        shown = f"{runs}" if runs == rounds else f"{runs}, dropped"
        rows.append(
            (schedule.levels, schedule.lowering.value, schedule.sub_batch, f"{value:.1f}", f"{spread(m.frame_ms):.0%}",
             f"{default_ms / value:.2f}", shown)
        )  # fmt: skip
    return rows
