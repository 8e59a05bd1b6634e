"""``smp-deploy evaluate``: what a checkpoint, a schedule or a precision costs in IoU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engines.backends import BACKENDS
from smp_deploy.cli.console import note, print_json, print_table, progress
from smp_deploy.cli.options import json_option, memory_option

if TYPE_CHECKING:
    from smp_deploy.datasets import DatasetInfo
    from smp_deploy.evaluation import Predictor


@click.command("evaluate")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--dataset", required=True, help="camvid, cityscapes, gta5, folder, or scenes (generated).")
@click.option("--root", type=click.Path(path_type=Path), help="The dataset's directory; scenes need none.")
@click.option("--split", default="val", show_default=True, help="Part of the dataset.")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Directory for JSON, CSV and pictures.")
@click.option("--pictures", type=click.IntRange(min=0), default=3, show_default=True, help="Best and worst frames.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many frames.")
@click.option("--phases", type=click.IntRange(1), help="How many phases are computed; SMP-X has 16.")
@click.option("--backend", type=click.Choice(BACKENDS), help="Bundle: the runtime; default onnxruntime.")
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "bf16", "int8"]), help="Bundle: which trunk; default fp32."
)
@click.option("--levels", type=click.IntRange(min=0), help="Bundle: levels that the loop walks; default the bundle's.")
@click.option(
    "--lowering", type=click.Choice(["reshape", "strided", "dilated"]), help="Bundle: form of the splits inside."
)
@click.option("--sub-batch", type=click.IntRange(min=1), help="Bundle: phases at a time; default 1.")
@memory_option
@click.option("--model", help="Checkpoint of a network of your own: its package.module:factory.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Checkpoint: where it runs; default cpu.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Checkpoint: CPU threads; default: all cores.")
@json_option
def evaluate_command(**options: Any) -> int:
    """Judge SOURCE, a checkpoint of `train` or a bundle, by labelled frames at full size.

    Prints IoU and boundary IoU of each class, their means, and the mean over small and thin objects.
    """
    from smp_deploy.datasets import open_dataset
    from smp_deploy.evaluation import (
        document_from_evaluation,
        evaluate,
        table_from_evaluation,
        write_extremes,
        write_reports,
    )

    dataset = open_dataset(options["dataset"], options["root"], options["split"])
    output: Path | None = options["output"]
    with _opened(options, dataset.info) as predictor:
        if output is not None:
            _make(output)
        with progress("evaluate") as advance:
            found = evaluate(predictor, dataset, extremes=options["pictures"], limit=options["limit"], advance=advance)
        # Printed first: hours of prediction are not lost with a disk that is full.
        if options["as_json"]:
            print_json({"source": str(options["source"]), **document_from_evaluation(found)})
        else:
            judged = f"{found.frames} frames of {dataset.info.name} {options['split']}"
            title = f"{judged}, {found.seconds:.1f} s of prediction"
            print_table(("class", "IoU, %", "boundary IoU, %"), table_from_evaluation(found), title=title)
        if output is not None:
            write_reports(found, output)
            write_extremes(found, predictor, dataset, output)
            note(f"wrote {output}")
    return 0


def _make(output: Path) -> None:
    """The directory for the results, before hours are spent on them."""
    from engines.errors import OutputError

    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file; -o names the folder for the results")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass  # it can be written to
    except OSError as error:
        raise OutputError(f"cannot write to {output}: {error.strerror}") from error


@contextmanager
def _opened(options: Mapping[str, Any], info: DatasetInfo) -> Iterator[Predictor]:
    """The predictor of a checkpoint file or of a bundle directory."""
    source: Path = options["source"]
    if source.is_dir():
        _refuse(options, ("model", "device", "threads"), "a checkpoint", source)
        with _bundle(options, info) as predictor:
            yield predictor
    else:
        _refuse(options, ("backend", "precision", "levels", "lowering", "sub_batch", "memory"), "a bundle", source)
        yield _checkpoint(options, info)


@contextmanager
def _bundle(options: Mapping[str, Any], info: DatasetInfo) -> Iterator[Predictor]:
    from engines.bundle.bundle import Bundle
    from engines.bundle.manifest import OutputKind, Precision
    from engines.errors import InputError
    from engines.session import Session
    from smp_deploy.cli.schedules import ScheduleOptions, session_schedule
    from smp_deploy.evaluation.predictors import BundlePredictor

    precision = Precision(options["precision"] or "fp32")
    backend = options["backend"] or "onnxruntime"
    bundle = Bundle.open(options["source"])
    schedule = session_schedule(bundle, backend, precision, ScheduleOptions.of(options)).schedule
    with Session.open(bundle, backend, precision=precision, schedule=schedule) as session:
        if session.manifest.outputs is not OutputKind.LABELS:
            raise InputError(
                f"{options['source']} gives {session.manifest.outputs.value}; a bundle of labels can be evaluated"
            )
        _check_classes(options["source"], [record.name for record in session.manifest.classes], info)
        yield session if options["phases"] is None else BundlePredictor(session, options["phases"])


def _checkpoint(options: Mapping[str, Any], info: DatasetInfo) -> Predictor:
    from engines.errors import BackendError, MissingDependency

    try:
        import torch

        from smp_deploy.evaluation import NetworkPredictor
        from smp_deploy.training import network_from_weights
    except ImportError as error:
        raise MissingDependency(error.name or "torch", "train") from error
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    device = options["device"] or "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError("evaluation on cuda was asked for, and PyTorch sees no CUDA device; use --device cpu")
    network, weights = network_from_weights(options["source"], options["model"])
    _check_classes(options["source"], weights.dataset.classes, info)
    return NetworkPredictor(network, phases=options["phases"], device=device)


def _check_classes(source: Path, classes: Sequence[str], info: DatasetInfo) -> None:
    from engines.errors import InputError

    if tuple(classes) != info.classes:
        raise InputError(
            f"{source} has the classes {', '.join(classes)}, and {info.name} has {', '.join(info.classes)}; "
            "labels of one cannot be judged by the other"
        )


def _refuse(options: Mapping[str, Any], names: Sequence[str], kind: str, source: Path) -> None:
    """An option that means nothing for this source is an error, not a silence."""
    from engines.errors import InputError

    for name in names:
        if options[name] is not None:
            raise InputError(f"--{name.replace('_', '-')} is for {kind}; {source} is none")
