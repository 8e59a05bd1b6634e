"""``smp-deploy validate``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from engines.bundle.bundle import Bundle
from engines.bundle.records import Check, Status, Validation, builtins_from_record
from engines.bundle.staging import check_target
from engines.errors import CheckFailed, InputError, MachineError, MissingDependency, OutputError
from engines.planning.sizes import memory_text
from engines.schedules.schedule import Lowering, Precision
from smp_deploy.cli.console import note, print_json, print_line, print_table
from smp_deploy.cli.opening import opened_bundle
from smp_deploy.cli.options import (
    BundleArgument,
    ImagesOption,
    JsonOption,
    StripPrefixOption,
    TrustOption,
    WeightsOption,
    backend_option,
    device_option,
    finite,
    memory_option,
)
from smp_deploy.cli.subjects import LIMIT, frames_of, network_of
from smp_deploy.cli.summaries import warn_of_validation

_OF_FRAMES_AND_NETWORK = (
    *("checkpoint", "arch", "model", "weights", "strip_prefix", "labels", "dataset", "root", "split", "limit"),
    *("reproduce", "no_weights", "quick"),
)
"""What goes without --backend."""


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
    arch: Annotated[
        str | None,
        typer.Option("--arch", metavar="NAME", help="With --checkpoint: the known network, if not the manifest's."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="PACKAGE.MODULE:FACTORY",
            help="The network of your own that the bundle was exported from; a bundle's word for it is not taken.",
        ),
    ] = None,
    weights: WeightsOption = None,
    strip_prefix: StripPrefixOption = None,
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
        typer.Option("--limit", min=1, metavar="N", help=f"Frames of the dataset; default {LIMIT}."),
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
    reproduce: Annotated[
        Path | None,
        typer.Option(
            "--reproduce",
            metavar="DIR",
            help="When a check fails: write the smallest piece of the graph that fails alone, to be sent to a vendor.",
        ),
    ] = None,
    no_weights: Annotated[
        bool,
        typer.Option("--no-weights", help="With --reproduce: random weights of the same spread, if the fault stays."),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Leave out the proofs on generated frames; the summary says what that is."),
    ] = False,
    backend: Annotated[
        str | None,
        backend_option("Compare this runtime with the stored outputs alone, without PyTorch and onnx."),
    ] = None,
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="With --backend: arithmetic of the trunk; default fp32.")
    ] = None,
    levels: Annotated[
        int | None,
        typer.Option("--levels", min=0, metavar="N", help="With --backend: levels that the loop walks."),
    ] = None,
    lowering: Annotated[Lowering | None, typer.Option("--lowering", help="With --backend.")] = None,
    sub_batch: Annotated[
        int | None, typer.Option("--sub-batch", min=1, metavar="N", help="With --backend: phases at a time.")
    ] = None,
    memory: Annotated[
        int | None,
        memory_option("With --backend: choose the schedule that fits."),
    ] = None,
    device: Annotated[
        str | None,
        device_option("With --backend: cpu, cuda, cuda:1."),
    ] = None,
    trust: TrustOption = None,
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
        "arch": arch,
        "model": model,
        "weights": weights,
        "strip_prefix": strip_prefix,
        "images": images or (),
        "labels": labels,
        "dataset": dataset,
        "root": root,
        "split": split,
        "limit": limit,
        "rtol": rtol,
        "atol": atol,
        "min_label_agreement": min_label_agreement,
        "reproduce": reproduce,
        "no_weights": no_weights or None,
        "quick": quick or None,
        "backend": backend,
        "precision": precision,
        "levels": levels,
        "lowering": lowering,
        "sub_batch": sub_batch,
        "memory": memory,
        "device": device,
        "trust": trust,
    }
    opened = opened_bundle(bundle, trust)
    command, keep = _command(bundle, options), _can_keep(opened)
    making = _prove if options["backend"] else _validate
    if options["backend"]:
        warn_of_validation(opened)
    validation = making(opened, options, command=command, keep=keep, on_check=_noted)
    document = builtins_from_record(validation)
    if as_json:
        print_json(document)
    else:
        _print(validation)
    failed = [check for check in validation.checks if check.failed]
    if failed:
        where = f"; the first: {failed[0].name}" + (f", in {failed[0].location}" if failed[0].location else "")
        raise CheckFailed(f"{len(failed)} of {len(validation.checks)} checks failed{where}")
    if validation.verdict is Status.NOT_RUN:
        reason = next(check.detail for check in validation.checks if check.status is Status.NOT_RUN)
        raise MachineError(f"no check could run here: {reason}")
    return document


def _can_keep(bundle: Bundle) -> bool:
    try:
        bundle.check_reports()
    except OutputError as error:
        note(f"the record is not kept: {error}")
        return False
    return True


def _noted(check: Check) -> None:
    note(f"{check.name}, {check.subject}: {check.status.value}")


def _tolerances(options: Mapping[str, Any]) -> dict[str, float]:
    names = (("logits", "rtol"), ("absolute", "atol"), ("label_agreement", "min_label_agreement"))
    return {name: options[option] for name, option in names if options[option] is not None}


def _prove(bundle: Bundle, options: Mapping[str, Any], **recording: Any) -> Validation:
    """What needs neither PyTorch nor onnx: the target proves its own engine."""
    from engines.planning.choice import choose_schedule
    from engines.proof import prove

    for name in _OF_FRAMES_AND_NETWORK:
        if options[name] is not None:
            raise InputError(
                f"--{name.replace('_', '-')} is not for --backend, which compares with the stored outputs alone"
            )
    if options["images"]:
        raise InputError("--images is not for --backend, which compares with the stored outputs alone")
    backend, precision, device = options["backend"], options["precision"] or Precision.FP32, options["device"]
    named = {name: options[name] for name in ("levels", "lowering", "sub_batch", "memory") if options[name] is not None}
    schedule = choose_schedule(bundle, backend, precision, device=device, **named).schedule if named else None
    tolerances = _tolerances(options)
    return prove(
        bundle,
        backend,
        precision,
        schedule=schedule,
        memory=options["memory"],
        device=device,
        tolerances=tolerances,
        **recording,
    )


def _validate(bundle: Bundle, options: Mapping[str, Any], **recording: Any) -> Validation:
    for name in ("precision", "levels", "lowering", "sub_batch", "memory", "device"):
        if options[name] is not None:
            raise InputError(f"--{name.replace('_', '-')} goes with --backend; without it every trunk is checked")
    try:
        from converters.verification.validate import validate
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    target: Path | None = options["reproduce"]
    if target is not None:
        check_target(target, None)
    elif options["no_weights"]:
        raise InputError("--no-weights goes with --reproduce")
    frames, network = frames_of(bundle, options), network_of(bundle, options)
    quick = bool(options["quick"])
    validation = validate(
        bundle, network=network, frames=frames, tolerances=_tolerances(options), quick=quick, **recording
    )
    if target is not None:
        _reproduce(bundle, target, validation, network=network, frames=frames, weights=not options["no_weights"])
    return validation


def _reproduce(bundle: Bundle, target: Path, validation: Validation, **options: Any) -> None:
    """Write the piece that fails alone, or say why there is none: the verdict is the validation's."""
    from converters.reproductions import Unreproducible, reproduce

    try:
        piece = reproduce(bundle, target, validation.checks, **options)
    except Unreproducible as error:
        note(f"{target} was not written: {error}")
    else:
        note(f"{target}: {', '.join(piece.nodes)} alone is {piece.error:.3g} off; its README.md says how to see it")


def _command(bundle: Path, options: Mapping[str, Any]) -> str:
    """The command line that makes this record again."""
    words = ["smp-deploy", "validate", str(bundle)]
    for name, value in options.items():
        for single in value if isinstance(value, (tuple, list)) else [] if value is None else [value]:
            if name == "memory":
                single = memory_text(single)
            option = f"--{name.replace('_', '-')}"
            words += [option] if single is True else [option, str(single.value if isinstance(single, Enum) else single)]
    return shlex.join(words)


def _print(validation: Validation) -> None:
    print_table(
        ("check", "on", "measured", "tolerance", "result", ""),
        [
            (
                check.name,
                check.subject,
                "" if check.value is None else f"{check.value:.6g}",
                f"{check.tolerance:g}",
                check.status.value,
                check.words,
            )
            for check in validation.checks
        ],
    )
    for command in validation.commands[1:]:
        print_line(f"to dig deeper: {command}")
    for missing in validation.not_proven:
        print_line(f"not proven: {missing}")
    print_line(", ".join(f"{count} {status.value}" for status, count in validation.counts.items() if count))
