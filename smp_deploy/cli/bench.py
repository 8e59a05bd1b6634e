"""``smp-deploy bench``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engines.backends import DEFAULT_BACKEND
from engines.bundle.bundle import Bundle
from engines.bundle.records import BenchRecord, builtins_from_record
from engines.errors import CheckFailed, OutputError
from engines.planning.choice import choose_schedule
from engines.planning.sizes import shown_bytes
from engines.schedules.schedule import Precision
from smp_deploy.cli.console import note, print_json, print_table, progress
from smp_deploy.cli.opening import used_bundle
from smp_deploy.cli.options import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    ImagesOption,
    JsonOption,
    LevelsOption,
    LoweringOption,
    MemoryOption,
    PrecisionOption,
    SubBatchOption,
    TrustOption,
    finite,
    frames_of,
)
from smp_deploy.cli.summaries import device_memory_text


class Percentiles(tuple[float, ...]):
    """Numbers between 0 and 100."""


_USUAL = Percentiles((90, 95, 99))


def _percentiles(text: str | Percentiles) -> Percentiles:
    """``"90,99.9"`` -> ``(90.0, 99.9)``. Raises ``typer.BadParameter``."""
    if isinstance(text, Percentiles):
        # typer hands over defaults, too.
        return text
    try:
        shares = Percentiles(float(share) for share in text.split(","))
    except ValueError:
        shares = Percentiles()
    if not shares or not all(0 <= share <= 100 for share in shares):
        raise typer.BadParameter(f"percentiles lie between 0 and 100, with commas, 90,99 say; received {text!r}")
    return shares


def bench_command(
    bundle: BundleArgument,
    backend: BackendOption = DEFAULT_BACKEND,
    precision: PrecisionOption = Precision.FP32,
    levels: LevelsOption = None,
    lowering: LoweringOption = None,
    sub_batch: SubBatchOption = None,
    memory: MemoryOption = None,
    device: DeviceOption = None,
    images: ImagesOption = None,
    warm_up_ms: Annotated[
        float,
        typer.Option(
            "--warm-up",
            min=0,
            callback=finite,
            metavar="MS",
            help="Run at least this long, and at least one frame, before measuring.",
        ),
    ] = 200.0,
    duration_s: Annotated[
        float,
        typer.Option("--duration", min=0, callback=finite, metavar="S", help="Measure at least this long."),
    ] = 3.0,
    iterations: Annotated[
        int, typer.Option("--iterations", min=1, metavar="N", help="Measure at least so many frames.")
    ] = 10,
    percentiles: Annotated[
        Percentiles,
        typer.Option(
            "--percentile",
            parser=_percentiles,
            metavar="LIST",
            show_default=False,
            help="Of the latency.  [default: 90,95,99]",
        ),
    ] = _USUAL,
    trust: TrustOption = None,
    as_json: JsonOption = False,
) -> dict[str, Any]:
    """Measure BUNDLE on this machine: latency, throughput and memory of one schedule.

    The options are trtexec's. A frame's latency is the time from the frame handed over to its predictions. Frames
    are the images, or the bundle's reference frame. Memory is the peak of a fresh process above an empty one, and on a
    GPU that of the device, as NVML has it. A --memory that was passed ends the command with exit code 1.

    The result is kept in the bundle's reports/, in place of an older one of this device and schedule, and shown by
    report.
    """
    from smp_deploy.benchmarking.bench import bench
    from smp_deploy.reports.benches import keep

    named: dict[str, Any] = {"levels": levels, "lowering": lowering, "sub_batch": sub_batch, "memory": memory}

    def measured(opened: Bundle) -> tuple[Bundle, BenchRecord]:
        chosen = choose_schedule(opened, backend, precision, device=device, **named)
        frames = frames_of(opened, images)
        with progress("frames") as advance:
            record = bench(
                opened,
                backend,
                precision,
                schedule=chosen,
                memory=memory,
                device=device,
                frames=frames,
                warm_up_ms=warm_up_ms,
                duration_s=duration_s,
                iterations=iterations,
                percentiles=percentiles,
                keep=False,
                on_progress=advance,
            )
        return opened, record

    opened, record = used_bundle(measured, bundle, trust)
    try:
        keep(opened, record)
    except OutputError as error:
        note(f"not kept for the report: {error}")
    document = {"bundle": str(bundle), **builtins_from_record(record)}
    if as_json:
        print_json(document)
    else:
        print_table(("bench", str(bundle)), _rows(record))
    if record.memory.over_budget:
        taken, budget = record.memory.bounded_bytes or 0, record.memory.budget_bytes or 0
        raise CheckFailed(f"took {shown_bytes(taken)} where --memory allows {shown_bytes(budget)}")
    return document


def _rows(record: BenchRecord) -> list[tuple[str, str]]:
    latency, throughput, memory, machine = record.latency_ms, record.throughput, record.memory, record.machine
    percentiles = ", ".join(f"{share}% {value:.2f}" for share, value in latency.percentiles.items())
    if memory.above_empty_process_bytes is None or memory.process_bytes is None:
        peak = memory.not_measured
    else:
        peak = (
            f"{memory.above_empty_process_bytes / 2**20:.0f} MiB above the empty process, "
            f"{memory.process_bytes / 2**20:.0f} MiB with it"
        )
    on_device = memory.device
    moved = record.rearrangement
    return [
        ("network", f"{record.network}, {record.size[0]}x{record.size[1]}"),
        ("schedule", f"{record.schedule} ({record.reason})"),
        ("latency, ms", f"min {latency.min:.2f}, max {latency.max:.2f}, mean {latency.mean:.2f}"),
        ("", f"median {latency.median:.2f}; {percentiles}"),
        ("measured", f"{record.iterations} frames"),
        (
            "throughput",
            f"{throughput.frames_per_s:.3g} frames/s, {throughput.megapixels_per_s:.3g} megapixels/s",
        ),
        *(
            [("memory of the GPU", device_memory_text(on_device.session_bytes, on_device.context_bytes))]
            if on_device
            else []
        ),
        ("memory", peak),
        (
            "cutting and merging",
            f"{moved.ms:.2f} ms, {moved.share:.2%} of the median" if moved else "on the device, not measured here",
        ),
        ("device", f"{machine.device}; {machine.runtime}"),
        ("machine", f"{machine.system}, {machine.machine}, {machine.memory}, Python {machine.python}"),
    ]
