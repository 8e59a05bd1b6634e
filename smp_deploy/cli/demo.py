"""``smp-deploy demo``: the whole way on a real frame, through the same commands a user types."""

from __future__ import annotations

import shlex
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import typer

from engines.errors import MachineError
from engines.text import shown
from smp_deploy.cli.app import invoke
from smp_deploy.cli.console import note, print_line, print_table

_ARCH = "smp-resnet18"
_SIZE = "360x480"


def demo_command(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Folder for the bundle and the pictures; an earlier demo in it is replaced.",
        ),
    ] = Path("smp-deploy-demo"),
) -> dict[str, Any]:
    """Export, validate, build an engine and label a real road frame, with the network that comes along.

    Every step is a command of smp-deploy; it is printed before it runs.
    """
    bundle, pictures = output / "bundle", output / "pictures"
    with (
        as_file(files("smp_deploy") / "data" / "camvid-smp18.safetensors") as checkpoint,
        as_file(files("smp_deploy") / "data" / "camvid-frame.png") as frame,
    ):
        steps = [
            _step("export", checkpoint, "--arch", _ARCH, "--size", _SIZE, "--reference-images", frame,
                  "--levels", 2, "-o", bundle, "--force"),
            _step("validate", bundle, "--quick"),
            _step("build-engine", bundle, "--fp16", "--sub-batch", 4),
            _step("run", bundle, frame, "-o", pictures, "--side-by-side"),
        ]  # fmt: skip
    summary = [
        ("export", _export_result(steps[0]), _seconds(steps[0])),
        ("validate", _validate_result(steps[1]), _seconds(steps[1])),
        ("build-engine", _engine_result(steps[2]), _seconds(steps[2])),
        ("run", _run_result(steps[3]), _seconds(steps[3])),
    ]
    columns = ("step", "result", "seconds")
    print_table(columns, summary, title="summary")
    lines = [shown(f"| {' | '.join(row)} |") for row in (columns, ("---",) * len(columns), *summary)]
    (output / "summary.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print_line(f"Look at {output / 'summary.md'} and the pictures in {pictures}.")
    return {"summary": [dict(zip(columns, row, strict=True)) for row in summary]}


def _step(command: str, *arguments: object) -> dict[str, Any]:
    words = [command, *map(str, arguments)]
    note("")
    note(f"$ smp-deploy {shlex.join(words)}")
    started = time.monotonic()
    try:
        document: dict[str, Any] = invoke(words)
    except MachineError as error:
        if command != "build-engine":
            raise
        # The only step that a machine may lack the means for; the summary says so.
        note(f"not run: {error}")
        document = {"not_run": str(error)}
    return {**document, "step_seconds": time.monotonic() - started}


def _seconds(step: dict[str, Any]) -> str:
    return f"{step['step_seconds']:.1f}"


def _export_result(step: dict[str, Any]) -> str:
    return f"{len(step['files'])} files, {sum(step['files'].values()) / 1e6:.1f} MB in {step['bundle']}"


def _validate_result(step: dict[str, Any]) -> str:
    statuses = [check["status"] for check in step["checks"]]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{counts}; quick: without the proofs on generated frames"


def _engine_result(step: dict[str, Any]) -> str:
    if "not_run" in step:
        return f"not run: {step['not_run']}"
    convolutions = ", ".join(f"{count} {kind}" for kind, count in step["convolutions"].items())
    return f"{step['backend']} {step['version']}, convolutions: {convolutions}, {step['plan_bytes'] / 1e6:.1f} MB"


def _run_result(step: dict[str, Any]) -> str:
    (image,) = step["images"]
    largest = ", ".join(f"{name} {share:.0%}" for name, share in list(image["classes"].items())[:4])
    return f"{largest}; {len(image['written'])} pictures"
