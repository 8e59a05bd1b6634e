"""``smp-deploy plan``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from engines.backends import DEFAULT_BACKEND
from engines.backends.memory import DeviceMemoryModel
from engines.bundle.bundle import Bundle
from engines.errors import MissingDependency
from engines.planning.planner import Candidate, Plan, plan
from engines.planning.sizes import shown_bytes
from engines.schedules.schedule import Precision
from smp_deploy.cli.console import note, print_json, print_line, print_table
from smp_deploy.cli.errors import build_engine_line
from smp_deploy.cli.options import (
    BundleArgument,
    DeviceOption,
    JsonOption,
    MemoryOption,
    PrecisionOption,
    backend_option,
)
from smp_deploy.figures import own_settings
from smp_deploy.reports.benches import context_bytes
from smp_deploy.reports.targets import check_file_target, write_to_target


def plan_command(
    bundle: BundleArgument,
    memory: MemoryOption = None,
    precision: PrecisionOption = Precision.FP32,
    backend: Annotated[
        str,
        backend_option("Whose memory is predicted."),
    ] = DEFAULT_BACKEND,
    device: DeviceOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw memory against compute; replaces a .png that stands there, and nothing else.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> dict[str, Any]:
    """Show every schedule of BUNDLE: predicted peak, relative compute, what fits, and the choice with its reason.

    The peak is that of a process that does nothing else on a CPU, and on a GPU what a session takes of its memory
    beyond CUDA's context and the loaded kernels.
    """
    opened = Bundle.open(bundle)
    if plot is not None:
        check_file_target(opened, plot, ".png")
    planned = plan(opened, backend, precision, memory=memory, device=device)
    entries = [_entry(candidate, planned) for candidate in planned.candidates]
    choice = _entry(planned.choice, planned) if planned.choice else None
    document = {
        "bundle": str(bundle),
        "backend": backend,
        "precision": precision.value,
        "memory_bytes": memory,
        "process_bytes": planned.process_bytes,
        "memory_model": "measured" if planned.measured else "not measured",
        "schedules": entries,
        "choice": choice,
        "reason": planned.reason,
    }
    beyond = ""
    if isinstance(model := planned.backend.memory, DeviceMemoryModel):
        here = context_bytes(opened, planned.backend, device)
        document["context_bytes"] = taken = model.context_bytes if here is None else here
        beyond = _beyond(taken, "on this device" if here is not None else "on an H100")
    if plot is not None:
        write_to_target(plot, _picture(planned), ".png")
        note(f"wrote {plot}")
    if as_json:
        print_json(document)
        return document
    print_table(
        ("levels", "lowering", "sub-batch", "predicted peak", "compute", "fits", ""),
        [
            (
                e["levels"],
                e["lowering"],
                e["sub_batch"],
                shown_bytes(planned.needed_bytes(candidate)),
                f"x{e['compute']:.2f}",
                ("yes" if e["fits"] else "no") + (", a tensor is too large" if e["too_large"] else ""),
                "<- choice" if e == choice else "",
            )
            for e, candidate in zip(entries, planned.candidates, strict=True)
        ],
    )
    if not planned.measured:
        print_line(f"How much {backend} takes in {precision.value} is an assumption: it was not measured.")
    if beyond:
        print_line(beyond)
    print_line(planned.reason)
    if planned.choice is not None:
        print_line(_command(bundle, planned, planned.choice, device))
    return document


def _beyond(context: int | None, where: str) -> str:
    """Of the memory that comes on top of a GPU's predicted peaks."""
    what = "Beyond that, CUDA's context and the loaded kernels take memory"
    return f"{what} that was not measured." if context is None else f"{what}: {shown_bytes(context)} {where}."


def _entry(candidate: Candidate, planned: Plan) -> dict[str, Any]:
    schedule = candidate.schedule
    return {
        "levels": schedule.levels,
        "lowering": schedule.lowering.value,
        "sub_batch": schedule.sub_batch,
        "peak_bytes": candidate.peak_bytes,
        "compute": round(candidate.compute, 4),
        "fits": planned.fits(candidate),
        "too_large": candidate.too_large,
    }


def _command(bundle: Path, planned: Plan, choice: Candidate, device: str | None) -> str:
    """What to type next."""
    schedule, backend, precision = choice.schedule, planned.backend, planned.precision.value
    if backend.needs_engines:
        lowering, sub_batch = schedule.lowering.value, schedule.sub_batch
        return build_engine_line(bundle, backend.name, precision, schedule.levels, lowering, sub_batch, device)
    words = ["smp-deploy", "run", bundle, "IMAGES", "-o", "DIR", "--backend", backend, "--precision", precision]
    words += ["--levels", schedule.levels, "--lowering", schedule.lowering.value, "--sub-batch", schedule.sub_batch]
    words += ["--device", device] if device else []
    return shlex.join(map(str, words))


@own_settings()
def _picture(planned: Plan) -> bytes:
    """Memory against compute, a point for each schedule."""
    from io import BytesIO

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("matplotlib", "report") from error
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for lowering, marker in (("reshape", "o"), ("strided", "s"), ("dilated", "^")):
        points = [c for c in planned.candidates if c.schedule.lowering.value == lowering]
        if points:
            peaks = [planned.needed_bytes(c) / 2**20 for c in points]
            axes.scatter(peaks, [c.compute for c in points], marker=marker, label=lowering, alpha=0.6)
    if planned.memory_bytes is not None:
        axes.axvline(planned.memory_bytes / 2**20, color="black", linestyle="--", linewidth=1, label="budget")
    if planned.choice is not None:
        x, y = planned.needed_bytes(planned.choice) / 2**20, planned.choice.compute
        axes.scatter(
            [x], [y], marker="o", s=160, facecolors="none", edgecolors="red", label=f"{planned.choice.schedule}"
        )
    axes.set(xscale="log", xlabel="predicted peak, MiB", ylabel="compute, relative to the whole network")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
