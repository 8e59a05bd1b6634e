"""``smp-deploy validate``."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engines.bundle.bundle import Bundle
from engines.errors import CheckFailed, InputError, MissingDependency, OutputError
from engines.parity.checks import Check
from engines.schedules.schedule import Lowering, Precision
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.options import BACKEND_CHOICE, FiniteRange, bundle_argument, images_option, json_option
from smp_deploy.cli.summaries import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from converters.verification import Findings, Frame

_LIMIT = 5


@click.command("validate", short_help="Prove numeric parity, hop by hop.")
@bundle_argument
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="The checkpoint the bundle was exported from: run PyTorch anew, and name the layer of a fault.",
)
@images_option
@click.option("--labels", type=click.Path(path_type=Path), help="Folder of label PNGs, named like --images.")
@click.option("--dataset", help="Labelled frames: camvid, cityscapes, gta5, folder, or scenes (generated).")
@click.option("--root", type=click.Path(path_type=Path), help="The dataset's directory.")
@click.option("--split", help="Part of the dataset; default val.")
@click.option("--limit", type=click.IntRange(min=1), help=f"Frames of the dataset; default {_LIMIT}.")
@click.option("--rtol", type=FiniteRange(min=0), help="Error of logits relative to the largest; else the table's.")
@click.option("--atol", type=FiniteRange(min=0), help="Absolute error of logits allowed on top; default 0.")
@click.option("--min-label-agreement", type=FiniteRange(0, 1), help="Share of labels; else the table's.")
@click.option(
    "--backend",
    type=BACKEND_CHOICE,
    help="Compare this runtime with the stored outputs alone, without PyTorch and onnx.",
)
@click.option(
    "--precision", type=click.Choice([p.value for p in Precision]), help="With --backend: which trunk; default fp32."
)
@click.option("--levels", type=click.IntRange(min=0), help="With --backend: levels that the loop walks.")
@click.option("--lowering", type=click.Choice([form.value for form in Lowering]), help="With --backend.")
@click.option("--sub-batch", type=click.IntRange(min=1), help="With --backend: phases at a time.")
@json_option
def validate_command(bundle: Path, as_json: bool, **options: Any) -> dict[str, Any]:
    """Prove numeric parity of BUNDLE: PyTorch against its graphs in ONNX Runtime, hop by hop, and its engines.

    PyTorch's outputs for the reference frames are in the bundle, so neither the checkpoint nor the network's code
    is needed. Labels are judged on --images or --dataset, else on the reference frames. A check that cannot run here
    is listed as "not run", and the summary says what is therefore not proven. The record goes to the bundle's
    reports/ folder; `smp-deploy report` makes a page of it. Exit code 1 when a check fails.
    """
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

    from engines.planning.choice import choose_schedule
    from engines.proof import backend_checks, provenance_checks

    for name in ("checkpoint", "labels", "dataset", "root", "split", "limit"):
        if options[name] is not None:
            raise InputError(f"--{name} is not for --backend, which compares with the stored outputs alone")
    if options["images"]:
        raise InputError("--images is not for --backend, which compares with the stored outputs alone")
    precision = Precision(options["precision"] or "fp32")
    named = {name: options[name] for name in ("levels", "lowering", "sub_batch")}
    schedule = choose_schedule(bundle, options["backend"], precision, **named).schedule
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
        for single in value if isinstance(value, tuple) else [] if value is None else [value]:
            words += [f"--{name.replace('_', '-')}", str(single)]
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
        click.echo(f"to dig deeper: {command}")
    for missing in document["not_proven"]:
        click.echo(f"not proven: {missing}")
    click.echo(", ".join(f"{count} {status}" for status, count in document["counts"].items() if count))
