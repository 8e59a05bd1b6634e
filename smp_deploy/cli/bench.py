"""``smp-deploy bench``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engines.backends import backend_named
from engines.bundle.bundle import Bundle
from engines.errors import MachineError, OutputError
from engines.planning.choice import ChosenSchedule
from engines.planning.tunings import here
from engines.schedules.schedule import Precision
from smp_deploy.cli.console import note, print_json, print_table, progress
from smp_deploy.cli.options import (
    BACKEND_CHOICE,
    FiniteRange,
    bundle_argument,
    images_option,
    json_option,
    precision_option,
    schedule_options,
)
from smp_deploy.cli.schedules import session_schedule

if TYPE_CHECKING:
    from engines.session import Session
    from smp_deploy.benchmarking.statistics import Summary
    from smp_deploy.benchmarking.timing import Frame, Length


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
    "--backend",
    type=BACKEND_CHOICE,
    default="onnxruntime",
    show_default=True,
    help="What runs the graphs.",
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
    choice = session_schedule(opened, backend, precision, options)
    length = Length(options["warm_up_ms"], options["duration_s"], options["iterations"])
    frames = frames_of(opened, options["images"])
    with Session.open(opened, backend, precision=precision, schedule=choice.schedule) as session:
        with progress("frames") as advance:
            latencies_ms = frame_latencies(session, frames, length, advance)
        # TensorRT's windows are cut and merged on the device, within the frame's work.
        moved_ms = None if backend_named(backend).needs_engines else rearrangement_ms(session)
        summary = summary_of(latencies_ms, options["percentiles"])
        document = _document(bundle, session, choice, length, summary, latencies_ms)
    document["rearrangement"] = None if moved_ms is None else {"ms": moved_ms, "share": moved_ms / summary.median}
    document["memory"] = _memory(bundle, choice, precision, backend)
    document["machine"] = machine_of(backend)
    document |= {"backend": backend, "precision": precision.value}
    try:
        keep(opened, document)
    except OutputError as error:
        note(f"not kept for the report: {error}")
    if options["as_json"]:
        print_json(document)
    else:
        print_table(("bench", str(bundle)), _rows(document))
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


def machine_of(backend: str) -> dict[str, str]:
    """What a measurement was made with."""
    from smp_deploy.machine import machine_facts

    device, runtime = here(backend_named(backend), None)
    return {**machine_facts(), "device": device, "runtime": runtime}


def _document(
    bundle: Path,
    session: Session,
    choice: ChosenSchedule,
    length: Length,
    summary: Summary,
    latencies_ms: list[float],
) -> dict[str, Any]:
    height, width = session.grid.frame_size
    frames_per_s = 1000 / summary.mean
    schedule = choice.schedule
    return {
        "bundle": str(bundle),
        "network": session.manifest.network.source,
        "size": [height, width],
        "schedule": {
            "levels": schedule.levels,
            "lowering": schedule.lowering.value,
            "sub_batch": schedule.sub_batch,
            "reason": choice.reason,
        },
        "length": asdict(length),
        "iterations": len(latencies_ms),
        "latency_ms": asdict(summary),
        "throughput": {"frames_per_s": frames_per_s, "megapixels_per_s": frames_per_s * height * width / 1e6},
    }


def _memory(bundle: Path, choice: ChosenSchedule, precision: Precision, backend: str) -> dict[str, Any]:
    from smp_deploy.benchmarking.peak_memory import session_peak

    try:
        peak = session_peak(bundle, choice.schedule, precision=precision, backend=backend)
    except MachineError as error:
        return {"not_measured": str(error)}
    return {"above_empty_process_bytes": peak.work_bytes, "process_bytes": peak.peak_bytes}


def _rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    latency, throughput, schedule = document["latency_ms"], document["throughput"], document["schedule"]
    memory, moved, machine = document["memory"], document["rearrangement"], document["machine"]
    percentiles = ", ".join(f"{share}% {value:.2f}" for share, value in latency["percentiles"].items())
    shown = (
        memory.get("not_measured")
        or f"{memory['above_empty_process_bytes'] / 2**20:.0f} MiB above the empty process, "
        f"{memory['process_bytes'] / 2**20:.0f} MiB with it"
    )
    return [
        ("network", f"{document['network']}, {document['size'][0]}x{document['size'][1]}"),
        (
            "schedule",
            f"levels {schedule['levels']}, sub-batch {schedule['sub_batch']}, {schedule['lowering']} "
            f"({schedule['reason']})",
        ),
        ("latency, ms", f"min {latency['min']:.2f}, max {latency['max']:.2f}, mean {latency['mean']:.2f}"),
        ("", f"median {latency['median']:.2f}; {percentiles}"),
        ("measured", f"{document['iterations']} frames"),
        (
            "throughput",
            f"{throughput['frames_per_s']:.3g} frames/s, {throughput['megapixels_per_s']:.3g} megapixels/s",
        ),
        ("memory", shown),
        (
            "cutting and merging",
            f"{moved['ms']:.2f} ms, {moved['share']:.2%} of the median"
            if moved
            else "on the device, not measured here",
        ),
        ("device", f"{machine['device']}; {machine['runtime']}"),
        ("machine", f"{machine['system']}, {machine['machine']}, {machine['memory']}, Python {machine['python']}"),
    ]
