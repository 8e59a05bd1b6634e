"""``smp-deploy demo``: the whole way on a real frame, through the same commands a user types."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import typer

from engines.bundle.bundle import Bundle
from engines.bundle.contents import record_of_file
from engines.bundle.gate import Folder, opened_file, write_file
from engines.errors import InputError, MachineError, OutputError
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
    bundle, pictures, written = output / "bundle", output / "pictures", output / "summary.md"
    with (
        as_file(files("smp_deploy") / "data" / "camvid-smp18.safetensors") as checkpoint,
        as_file(files("smp_deploy") / "data" / "camvid-frame.png") as frame,
    ):
        earlier = _is_earlier_demo(bundle, written, checkpoint)
        steps = [
            _step("export", checkpoint, "--arch", _ARCH, "--size", _SIZE, "--reference-images", frame,
                  "--levels", 2, "-o", bundle, *(["--force"] if earlier else [])),
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
    print_table(_COLUMNS, summary, title="summary")
    lines = [_HEAD, *(shown(_line(row)) for row in (("---",) * len(_COLUMNS), *summary))]
    write_file(written, ("\n".join(lines) + "\n").encode(), replace=earlier)
    print_line(f"Look at {written} and the pictures in {pictures}.")
    return {"summary": [dict(zip(_COLUMNS, row, strict=True)) for row in summary]}


_COLUMNS = ("step", "result", "seconds")


def _line(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"


_HEAD = _line(_COLUMNS)


def _is_earlier_demo(bundle: Path, summary: Path, checkpoint: Path) -> bool:
    """Whether an earlier demo lies there, which is replaced. One that was broken off has a bundle alone.

    Raises :class:`OutputError` where something of these names is of no demo.
    """
    try:
        with opened_file(summary, _LARGEST_SUMMARY) as stream:
            of_demo = stream.readline().decode(errors="replace").rstrip() == _HEAD
    except FileNotFoundError:
        if not bundle.exists():
            return False
        try:
            network = Bundle.read(Folder(bundle)).manifest.network
        except (InputError, OSError):
            of_demo = False
        else:
            of_demo = network.checkpoint_sha256 == record_of_file(checkpoint).sha256
    if not of_demo:
        found = summary if summary.exists() else bundle
        raise OutputError(f"{found} is there and is of no demo, so it is not replaced; choose another -o")
    return True


_LARGEST_SUMMARY = 1 << 20


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
