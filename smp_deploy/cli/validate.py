"""``smp-deploy validate``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Lowering, Precision
from engines.errors import CheckFailed, InputError, MissingDependency, OutputError
from engines.parity.checks import Check
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.options import (
    BACKEND_METAVAR,
    BundleArgument,
    ImagesOption,
    JsonOption,
    backend_name,
    backends_from,
    finite,
)
from smp_deploy.cli.summaries import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from converters.verification import Findings, Frame

_LIMIT = 5


def validate_command(
    bundle: BundleArgument,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="PATH",
            help="The checkpoint the bundle was exported from: run PyTorch anew, and name the layer of a fault.",
        ),
    ] = None,
    images: ImagesOption = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="PATH", help="Folder of label PNGs, named like --images.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            help="Labelled frames: camvid, cityscapes, gta5, folder, or scenes (generated).",
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option("--root", metavar="PATH", help="The dataset's directory.")] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Part of the dataset; default val.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, metavar="N", help=f"Frames of the dataset; default {_LIMIT}."),
    ] = None,
    rtol: Annotated[
        float | None,
        typer.Option(
            "--rtol",
            min=0,
            callback=finite,
            metavar="ERROR",
            help="Error of logits relative to the largest; else the table's.",
        ),
    ] = None,
    atol: Annotated[
        float | None,
        typer.Option(
            "--atol",
            min=0,
            callback=finite,
            metavar="ERROR",
            help="Absolute error of logits allowed on top; default 0.",
        ),
    ] = None,
    min_label_agreement: Annotated[
        float | None,
        typer.Option(
            "--min-label-agreement",
            min=0,
            max=1,
            callback=finite,
            metavar="SHARE",
            help="Share of labels; else the table's.",
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            parser=backend_name,
            autocompletion=backends_from,
            metavar=BACKEND_METAVAR,
            help="Compare this runtime with the stored outputs alone, without PyTorch and onnx.",
        ),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="With --backend: which trunk; default fp32.")
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option("--levels", min=0, metavar="N", help="With --backend: levels that the loop walks."),
    ] = None,
    lowering: Annotated[Lowering | None, typer.Option("--lowering", help="With --backend.")] = None,
    sub_batch: Annotated[
        int | None, typer.Option("--sub-batch", min=1, metavar="N", help="With --backend: phases at a time.")
    ] = None,
    as_json: JsonOption = False,
) -> dict[str, Any]:
    """Prove numeric parity of BUNDLE: PyTorch against its graphs in ONNX Runtime, hop by hop, and its engines.

    PyTorch's outputs for the reference frames are in the bundle, so neither the checkpoint nor the network's code
    is needed. Labels are judged on --images or --dataset, else on the reference frames. A check that cannot run here
    is listed as "not run", and the summary says what is therefore not proven. The record goes to the bundle's
    reports/ folder; `smp-deploy report` makes a page of it. Exit code 1 when a check fails.
    """
    options: dict[str, Any] = {
        "checkpoint": checkpoint,
        "images": images or (),
        "labels": labels,
        "dataset": dataset,
        "root": root,
        "split": split,
        "limit": limit,
        "rtol": rtol,
        "atol": atol,
        "min_label_agreement": min_label_agreement,
        "backend": backend,
        "precision": precision,
        "levels": levels,
        "lowering": lowering,
        "sub_batch": sub_batch,
    }
    from smp_deploy.reports.documents import document_of, record_name, store

    started, opened = time.monotonic(), Bundle.open(bundle)
    overrides = {
        name: options[option]
        for name, option in (("logits", "rtol"), ("absolute", "atol"), ("label_agreement", "min_label_agreement"))
        if options[option] is not None
    }
    plan = _backend_plan(opened, options, overrides) if options["backend"] else _bundle_plan(opened, options, overrides)
    checks = []
    for check in plan.checks:
        note(f"{check.name}, {check.subject}: {check.status.value}")
        checks.append(check)
    document = document_of(
        opened,
        checks,
        seconds=time.monotonic() - started,
        overrides=overrides,
        frames=plan.frames,
        commands=[_command(bundle, options), *plan.commands],
        findings=plan.findings,
    )
    try:
        store(opened, document, plan.findings, name=record_name(options["backend"]))
    except OutputError as error:
        note(f"the record is not kept: {error}")
    if as_json:
        print_json(document)
    else:
        _print(checks, document)
    failed = [check for check in checks if check.failed]
    if failed:
        where = f"; the first: {failed[0].name}" + (f", in {failed[0].location}" if failed[0].location else "")
        raise CheckFailed(f"{len(failed)} of {len(checks)} checks failed{where}")
    return document


@dataclass(frozen=True)
class _Plan:
    checks: Iterator[Check]
    frames: list[str]
    commands: list[str]
    findings: Findings | None = field(default=None)


def _backend_plan(bundle: Bundle, options: Mapping[str, Any], overrides: Mapping[str, float]) -> _Plan:
    """What needs neither PyTorch nor onnx: the target proves its own engine."""
    from itertools import chain

    from engines.proof import backend_checks, provenance_checks
    from engines.schedules.schedule import resolved_schedule

    for name in ("checkpoint", "labels", "dataset", "root", "split", "limit"):
        if options[name] is not None:
            raise InputError(f"--{name} is not for --backend, which compares with the stored outputs alone")
    if options["images"]:
        raise InputError("--images is not for --backend, which compares with the stored outputs alone")
    schedule = resolved_schedule(bundle.manifest, options["levels"], options["sub_batch"], options["lowering"])
    precision = options["precision"] or Precision.FP32
    checks = backend_checks(bundle, options["backend"], precision, schedule=schedule, overrides=overrides)
    frames = [f"reference frame {index}" for index in range(len(bundle.manifest.reference))]
    return _Plan(chain(provenance_checks(bundle), checks), frames, [])


def _bundle_plan(bundle: Bundle, options: Mapping[str, Any], overrides: Mapping[str, float]) -> _Plan:
    for name in ("precision", "levels", "lowering", "sub_batch"):
        if options[name] is not None:
            raise InputError(f"--{name.replace('_', '-')} goes with --backend; without it every trunk is checked")
    try:
        # The record is written in its formats: said before the work, not after it.
        import polygraphy  # noqa: F401

        from converters.verification import Subject, checks_of, reference_frames
        from converters.verification.polygraphy_files import polygraphy_commands
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    frames = reference_frames(bundle) + _images(bundle, options) + _dataset(bundle, options)
    subject = Subject(bundle, frames, overrides, _network(bundle, options["checkpoint"]))
    names = [frame.name for frame in subject.frames]
    return _Plan(checks_of(subject), names, polygraphy_commands(bundle), subject.findings)


def _images(bundle: Bundle, options: Mapping[str, Any]) -> list[Frame]:
    from converters.verification import Frame
    from smp_deploy.images import check_size, frame_from_file, image_files

    folder: Path | None = options["labels"]
    if folder is not None and not options["images"]:
        raise InputError("--labels are those of --images; name the images, too")
    frames = []
    for path in image_files(options["images"]):
        image = frame_from_file(path)
        check_size(path.name, image, bundle.manifest.input.size)
        frames.append(Frame(path.name, image, truth=_truth(bundle, folder, path) if folder is not None else None))
    return frames


def _truth(bundle: Bundle, folder: Path, image: Path) -> NDArray[np.uint8]:
    """The labels of an image: class numbers, or 255 where a person gave none."""
    from converters.verification import IGNORED
    from smp_deploy.datasets.base import DatasetInfo, check_known_ids, read_class_numbers

    file = folder / f"{image.stem}.png"
    if not file.is_file():
        raise InputError(f"{folder} has no {file.name} for {image}")
    labels, size = read_class_numbers(file), bundle.manifest.input.size
    if labels.shape != size:
        raise InputError(f"{file} is {shown(labels.shape)} (height x width); the bundle's frames are {shown(size)}")
    classes = bundle.manifest.classes
    names, colours = tuple(record.name for record in classes), tuple(record.color for record in classes)
    check_known_ids(file, labels, DatasetInfo("the bundle", names, colours, IGNORED, ()))
    return labels


def _dataset(bundle: Bundle, options: Mapping[str, Any]) -> list[Frame]:
    if options["dataset"] is None:
        for name in ("root", "split", "limit"):
            if options[name] is not None:
                raise InputError(f"--{name} is for --dataset")
        return []
    import numpy as np

    from converters.verification import IGNORED, Frame
    from smp_deploy.datasets import open_dataset
    from smp_deploy.images import check_size

    dataset = open_dataset(options["dataset"], options["root"], options["split"] or "val")
    names = tuple(record.name for record in bundle.manifest.classes)
    if names != dataset.info.classes:
        raise InputError(
            f"{bundle.path} has the classes {', '.join(names)}, and {dataset.info.name} has "
            f"{', '.join(dataset.info.classes)}; labels of one cannot be judged by the other"
        )
    frames = []
    for index in range(min(len(dataset), options["limit"] or _LIMIT)):
        example = dataset.load(index)
        check_size(example.name, example.image, bundle.manifest.input.size)
        truth = np.where(example.labels == dataset.info.ignore_id, IGNORED, example.labels).astype(np.uint8)
        frames.append(Frame(example.name, example.image, truth=truth))
    return frames


def _network(bundle: Bundle, checkpoint: Path | None) -> nn.Module | None:
    if checkpoint is None:
        return None
    from converters.checkpoints import checkpoint_from_file, load_checkpoint
    from converters.networks import network_from_source

    record = bundle.manifest.network
    network = network_from_source(record.source, classes=len(bundle.manifest.classes), width=record.width or 64)
    loaded = checkpoint_from_file(checkpoint)
    if loaded.sha256 != record.checkpoint_sha256:
        note(f"{checkpoint} is not the checkpoint that the bundle was exported from (SHA-256 differs)")
    load_checkpoint(network, loaded)
    return network.eval()


def _command(bundle: Path, options: Mapping[str, Any]) -> str:
    """The command line that makes this record again."""
    words = ["smp-deploy", "validate", str(bundle)]
    for name, value in options.items():
        for single in value if isinstance(value, (tuple, list)) else [] if value is None else [value]:
            shown_value = single.value if isinstance(single, Enum) else single
            words += [f"--{name.replace('_', '-')}", str(shown_value)]
    return shlex.join(words)


def _print(checks: list[Check], document: Mapping[str, Any]) -> None:
    print_table(
        ("check", "on", "measured", "tolerance", "result", ""),
        [
            (
                check.name,
                check.subject,
                "" if check.measured is None else f"{check.measured:.6g}",
                f"{check.tolerance:g}",
                check.status.value,
                f"in {check.location}; {check.detail}" if check.location else check.detail,
            )
            for check in checks
        ],
    )
    for command in document["commands"][1:]:
        typer.echo(f"to dig deeper: {command}")
    for missing in document["not_proven"]:
        typer.echo(f"not proven: {missing}")
    typer.echo(", ".join(f"{count} {status}" for status, count in document["counts"].items() if count))
