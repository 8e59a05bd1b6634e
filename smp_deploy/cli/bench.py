"""``smp-deploy bench``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engines.backends import BACKENDS, flavour_of
from engines.bundle.bundle import Bundle
from engines.schedules.schedule import Precision
from engines.bundle.records import (
    BenchLength,
    BenchMachine,
    BenchRecord,
    Latency,
    PeakMemory,
    Rearrangement,
    Throughput,
    builtins_from_record,
)
from engines.errors import MachineError, OutputError
from engines.planning.tunings import ChosenSchedule, device_of, runtime_of
from smp_deploy.cli.console import note, print_json, print_table, progress
from smp_deploy.cli.options import (
    FiniteRange,
    bundle_argument,
    images_option,
    json_option,
    precision_option,
    schedule_options,
)
from smp_deploy.cli.schedules import ScheduleOptions, session_schedule

if TYPE_CHECKING:
    from smp_deploy.benchmarking.timing import Frame


class _Percentiles(click.ParamType[tuple[float, ...]]):
    """Numbers between 0 and 100, with commas."""

    name = "LIST"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """``"90,99.9"`` -> ``(90.0, 99.9)``."""
        if isinstance(value, tuple):
            return value
        try:
            shares = tuple(float(text) for text in str(value).split(","))
        except ValueError:
            shares = ()
        if not shares or not all(0 <= share <= 100 for share in shares):
            self.fail(f"percentiles lie between 0 and 100, with commas, 90,99 say; received {value!r}", param, ctx)
        return shares


@click.command("bench", short_help="Measure latency, throughput and memory.")
@bundle_argument
@click.option(
    "--backend", type=click.Choice(BACKENDS), default="onnxruntime", show_default=True, help="What runs the graphs."
)
@precision_option
@schedule_options
@images_option
@click.option(
    "--warm-up",
    "warm_up_ms",
    type=FiniteRange(0),
    default=200.0,
    show_default=True,
    metavar="MS",
    help="Run at least this long, and at least one frame, before measuring.",
)
@click.option(
    "--duration",
    "duration_s",
    type=FiniteRange(0),
    default=3.0,
    show_default=True,
    metavar="S",
    help="Measure at least this long.",
)
@click.option(
    "--iterations",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    metavar="N",
    help="Measure at least so many frames.",
)
@click.option(
    "--percentile", "percentiles", type=_Percentiles(), default="90,95,99", show_default=True, help="Of the latency."
)
@json_option
def bench_command(bundle: Path, **options: Any) -> dict[str, Any]:
    """Measure BUNDLE on this machine: latency, throughput and memory of one schedule.

    The options are trtexec's. A frame's latency is the time from the frame handed over to its predictions. Frames
    are the images, or the bundle's reference frame. Memory is the peak of a fresh process above an empty one.

    The result is kept in the bundle's reports/, in place of an older one of this device and schedule, and shown by
    report.
    """
    from engines.session import Session
    from smp_deploy.benchmarking.statistics import summary_of
    from smp_deploy.benchmarking.timing import Length, frame_latencies, rearrangement_ms
    from smp_deploy.reports.benches import keep

    opened, precision, backend = Bundle.open(bundle), Precision(options["precision"]), options["backend"]
    choice = session_schedule(opened, backend, precision, ScheduleOptions.of(options))
    length = Length(options["warm_up_ms"], options["duration_s"], options["iterations"])
    frames = frames_of(opened, options["images"])
    with Session.open(opened, backend, precision=precision, schedule=choice.schedule) as session:
        with progress("frames") as advance:
            latencies_ms = frame_latencies(session, frames, length, advance)
        # TensorRT's windows are cut and merged on the device, within the frame's work.
        moved_ms = rearrangement_ms(session) if flavour_of(backend) is None else None
        summary = summary_of(latencies_ms, options["percentiles"])
        frame = session.grid.frame_size
    frames_per_s = 1000 / summary.mean
    record = BenchRecord(
        network=opened.manifest.network.source,
        size=frame,
        backend=backend,
        precision=precision,
        schedule=choice.schedule,
        reason=choice.reason,
        length=BenchLength(**asdict(length)),
        iterations=len(latencies_ms),
        latency_ms=Latency(**asdict(summary)),
        throughput=Throughput(frames_per_s=frames_per_s, megapixels_per_s=frames_per_s * frame[0] * frame[1] / 1e6),
        rearrangement=None if moved_ms is None else Rearrangement(ms=moved_ms, share=moved_ms / summary.median),
        memory=_memory(bundle, choice, precision, backend),
        machine=machine_of(backend),
    )
    try:
        keep(opened, record)
    except OutputError as error:
        note(f"not kept for the report: {error}")
    document = {"bundle": str(bundle), **builtins_from_record(record)}
    if options["as_json"]:
        print_json(document)
    else:
        print_table(("bench", str(bundle)), _rows(record))
    return document


def frames_of(bundle: Bundle, images: tuple[str, ...]) -> list[Frame]:
    """The images, which must be of the bundle's size, or the frame of the bundle's first reference case."""
    from smp_deploy.images import check_size, frame_from_file, image_files

    if not images:
        return [bundle.reference_arrays(bundle.manifest.reference[0])[0]]
    frames = []
    for path in image_files(images):
        frame = frame_from_file(path)
        check_size(path, frame, bundle.manifest.input.size, "")
        frames.append(frame)
    return frames


def machine_of(backend: str) -> BenchMachine:
    """What a measurement was made with."""
    from smp_deploy.machine import machine_facts

    facts = machine_facts()
    return BenchMachine(
        device=device_of(backend), runtime=runtime_of(backend), smp_deploy=facts.pop("smp-deploy"), **facts
    )


def _memory(bundle: Path, choice: ChosenSchedule, precision: Precision, backend: str) -> PeakMemory:
    from smp_deploy.benchmarking.peak_memory import session_peak

    try:
        peak = session_peak(bundle, choice.schedule, precision=precision, backend=backend)
    except MachineError as error:
        return PeakMemory(not_measured=str(error))
    return PeakMemory(above_empty_process_bytes=peak.work_bytes, process_bytes=peak.peak_bytes)


def _rows(record: BenchRecord) -> list[tuple[str, str]]:
    latency, throughput, memory = record.latency_ms, record.throughput, record.memory
    moved, machine = record.rearrangement, record.machine
    percentiles = ", ".join(f"{share}% {value:.2f}" for share, value in latency.percentiles.items())
    shown = memory.not_measured or (
        f"{(memory.above_empty_process_bytes or 0) / 2**20:.0f} MiB above the empty process, "
        f"{(memory.process_bytes or 0) / 2**20:.0f} MiB with it"
    )
    return [
        ("network", f"{record.network}, {record.size[0]}x{record.size[1]}"),
        ("schedule", f"{record.schedule} ({record.reason})"),
        ("latency, ms", f"min {latency.min:.2f}, max {latency.max:.2f}, mean {latency.mean:.2f}"),
        ("", f"median {latency.median:.2f}; {percentiles}"),
        ("measured", f"{record.iterations} frames"),
        ("throughput", f"{throughput.frames_per_s:.3g} frames/s, {throughput.megapixels_per_s:.3g} megapixels/s"),
        ("memory", shown),
        (
            "cutting and merging",
            f"{moved.ms:.2f} ms, {moved.share:.2%} of the median" if moved else "on the device, not measured here",
        ),
        ("device", f"{machine.device}; {machine.runtime}"),
        ("machine", f"{machine.system}, {machine.machine}, {machine.memory}, Python {machine.python}"),
    ]
