"""``smp-deploy evaluate``: what a checkpoint, a schedule or a precision costs in IoU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engines.backends import DEFAULT_BACKEND
from engines.bundle.bundle import Bundle
from engines.errors import InputError
from engines.schedules.schedule import Lowering, Precision, Schedule
from smp_deploy.cli.console import note, print_json, print_table, progress
from smp_deploy.cli.opening import used_bundle
from smp_deploy.cli.options import (
    DatasetOption,
    JsonOption,
    MemoryOption,
    RootOption,
    StripPrefixOption,
    TrustOption,
    WeightsOption,
    backend_option,
    device_option,
)

if TYPE_CHECKING:
    from smp_deploy.evaluation import Evaluation


def evaluate_command(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="A checkpoint of `train`, or a bundle's directory.")],
    dataset: DatasetOption,
    root: RootOption = None,
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Part of the dataset.")] = "val",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Directory for JSON, CSV and pictures; replaces those of an earlier evaluation.",
        ),
    ] = None,
    pictures: Annotated[int, typer.Option("--pictures", min=0, metavar="N", help="Best and worst frames.")] = 3,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first so many frames.")
    ] = None,
    phases: Annotated[
        int | None,
        typer.Option(
            "--phases", min=1, metavar="N", help="How many phases are computed; of a checkpoint of SMP-X there are 16."
        ),
    ] = None,
    backend: Annotated[
        str | None,
        backend_option("Bundle: the runtime; default onnxruntime."),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="Bundle: arithmetic of the trunk; default fp32.")
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option("--levels", min=0, metavar="N", help="Bundle: levels that the loop walks; default as of `run`."),
    ] = None,
    lowering: Annotated[
        Lowering | None, typer.Option("--lowering", help="Bundle: form of the splits inside; default as of `run`.")
    ] = None,
    sub_batch: Annotated[
        int | None,
        typer.Option("--sub-batch", min=1, metavar="N", help="Bundle: phases at a time; default as of `run`."),
    ] = None,
    memory: MemoryOption = None,
    device: Annotated[
        str | None,
        device_option(
            "Where it runs: cpu, cuda, cuda:1; default cpu for a checkpoint, the backend's first for a bundle."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", help="Checkpoint of a network of your own: its package.module:factory."
        ),
    ] = None,
    weights: WeightsOption = None,
    strip_prefix: StripPrefixOption = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, max=1024, metavar="N", help="Checkpoint: CPU threads; default: all cores."),
    ] = None,
    trust: TrustOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge SOURCE, a checkpoint of `train` or a bundle, by labelled frames at full size.

    Prints IoU and boundary IoU of each class, their means, and the mean over small and thin objects.
    """
    from engines.planning.choice import choose_schedule
    from smp_deploy.evaluation import evaluate

    named: dict[str, Any] = {"levels": levels, "lowering": lowering, "sub_batch": sub_batch, "memory": memory}

    def judge(judged: Path | Bundle, schedule: Schedule | None) -> None:
        with progress("evaluate") as advance:
            evaluate(
                judged,
                dataset,
                root=root,
                split=split,
                limit=limit,
                extremes=pictures,
                phases=phases,
                backend=backend,
                precision=precision,
                schedule=schedule,
                memory=memory,
                device=device,
                threads=threads,
                model=model,
                weights=weights,
                strip_prefix=strip_prefix,
                output=output,
                on_progress=advance,
                on_result=lambda found: _print(source, split, found, as_json=as_json),
            )

    def judge_bundle(opened: Bundle) -> None:
        schedule = None
        if any(value is not None for value in named.values()):
            on, arithmetic = backend or DEFAULT_BACKEND, precision or Precision.FP32
            schedule = choose_schedule(opened, on, arithmetic, device=device, **named).schedule
        judge(opened, schedule)

    if source.is_dir():
        used_bundle(judge_bundle, source, trust)
    else:
        for name, value in {**named, "trust": trust}.items():
            if value is not None:
                raise InputError(f"--{name.replace('_', '-')} is for a bundle; {source} is none")
        judge(source, None)
    if output is not None:
        note(f"wrote {output}")


def _print(source: Path, split: str, found: Evaluation, *, as_json: bool) -> None:
    from smp_deploy.evaluation import document_from_evaluation, table_from_evaluation

    if as_json:
        print_json({"source": str(source), **document_from_evaluation(found)})
    else:
        judged = f"{found.frames} frames of {found.info.name} {split}"
        ran = "" if found.schedule is None else f", {found.schedule}"
        title = f"{judged}{ran}, {found.seconds:.1f} s of prediction"
        print_table(("class", "IoU, %", "boundary IoU, %"), table_from_evaluation(found), title=title)
