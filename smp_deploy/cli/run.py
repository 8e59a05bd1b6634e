"""``smp-deploy run``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engines.backends import DEFAULT_BACKEND, backend_named
from engines.bundle.bundle import Bundle
from engines.bundle.gate import write_file
from engines.bundle.manifest import OutputKind
from engines.errors import InputError, OutputError
from engines.planning.choice import ChosenSchedule, choose_schedule
from engines.schedules.schedule import Precision
from smp_deploy.cli.console import Advance, note, print_json, print_table, progress
from smp_deploy.cli.opening import used_bundle
from smp_deploy.cli.options import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    LevelsOption,
    LoweringOption,
    MemoryOption,
    PrecisionOption,
    SubBatchOption,
    TrustOption,
    above_zero,
)
from smp_deploy.cli.summaries import predicted_memory, warn_of_validation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engines.bundle.manifest import ClassRecord, Manifest
    from engines.session import Session


_MOST_PICTURED = 256
"""An indexed PNG has no more colours; with more classes only the floats are written."""
_RESIZE_HINT = ", or let --resize adapt the image"


@dataclass(frozen=True)
class _Options:
    """What to do with each image."""

    resize: bool
    side_by_side: bool
    deadline_ms: float | None
    replace: bool = True
    """Whether the results of an earlier run are replaced: not beside the images, where other things lie."""


def run_command(
    bundle: BundleArgument,
    images: Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Files, folders or patterns.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Folder for the results; replaces those of an earlier run, except in the folder of an image.",
        ),
    ],
    backend: BackendOption = DEFAULT_BACKEND,
    precision: PrecisionOption = Precision.FP32,
    levels: LevelsOption = None,
    lowering: LoweringOption = None,
    sub_batch: SubBatchOption = None,
    memory: MemoryOption = None,
    device: DeviceOption = None,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            "--deadline-ms",
            callback=above_zero,
            metavar="MS",
            help="For each image, what is there by then: pixels not yet computed take the nearest one that is.  [x>0]",
        ),
    ] = None,
    allow_smaller: Annotated[
        bool,
        typer.Option(
            "--allow-smaller",
            help="When memory runs out, go on with the next smaller schedule of the bundle, and say so.",
        ),
    ] = False,
    resize: Annotated[
        bool, typer.Option("--resize", help="Resize images to the bundle's size, and labels back.")
    ] = False,
    side_by_side: Annotated[
        bool,
        typer.Option("--side-by-side", help="Also write frame, overlay and labels in one picture with a legend."),
    ] = False,
    trust: TrustOption = None,
    as_json: JsonOption = False,
) -> dict[str, Any]:
    """Label IMAGES (files, folders or patterns) with BUNDLE and write pictures.

    For every image NAME: NAME-labels.png, an indexed PNG whose pixel values are the classes, and
    NAME-overlay.png. A bundle of logits or probabilities also gives NAME-logits.npy or NAME-probabilities.npy,
    float32 (classes, H, W). They replace those of an earlier run, except in the folder of an image: there no file is
    replaced.
    """
    from engines.session import Session
    from smp_deploy.images import Wanted, check_header, image_files

    files = image_files(images)
    options = _Options(resize, side_by_side, deadline_ms, replace=not _is_beside(files, output))
    _refuse_equal_names(files)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; -o names the folder for the results")
    named: dict[str, Any] = {"levels": levels, "lowering": lowering, "sub_batch": sub_batch, "memory": memory}

    def opened_session(opened: Bundle) -> tuple[Session, ChosenSchedule]:
        warn_of_validation(opened)
        if not options.replace:
            _refuse_to_overwrite(files, output, _kinds(opened.manifest, options))
        choice = choose_schedule(opened, backend, precision, device=device, deadline_ms=deadline_ms, **named)
        note(f"schedule: {choice.schedule} ({choice.reason})")
        if predicted := predicted_memory(opened, backend_named(backend), precision, choice.schedule, device):
            note(f"memory, as predicted: {predicted}")
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write to {output}: {error.strerror}") from error
        wanted = None if resize else Wanted.by_bundle(opened.manifest.input.size, _RESIZE_HINT)
        for path in files:
            check_header(path, wanted)
        with ExitStack() as stack:
            session = stack.enter_context(
                Session.open(
                    opened,
                    backend,
                    precision=precision,
                    schedule=choice.schedule,
                    memory=memory,
                    device=device,
                    allow_smaller=allow_smaller,
                )
            )
            # Also what the session does not read; what it read is verified.
            opened.verify()
            stack.pop_all()
        return session, choice

    session, choice = used_bundle(opened_session, bundle, trust)
    results: list[dict[str, Any]] = []
    with session:
        try:
            with progress(f"{len(files)} image{'s' if len(files) > 1 else ''}, phases") as advance:
                for index, path in enumerate(files):
                    of_all = _share(advance, session, index, len(files))
                    results.append(_label(session, path, output, options, of_all))
        finally:
            # The pictures that are written stay, so what is done is said even where a later image fails.
            for reduction in session.reductions:
                note(str(reduction))
            document = {
                "bundle": str(bundle),
                "backend": backend,
                "schedule": str(session.schedule),
                "schedule_reason": choice.reason,
                "deadline_ms": deadline_ms,
                "reductions": [
                    {"refused": str(reduction.refused), "tried": str(reduction.tried), "reason": reduction.reason}
                    for reduction in session.reductions
                ],
                "images": results,
            }
            if results:
                _print(document, as_json)
    return document


def _print(document: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print_table(
            ("image", "seconds", "phases", "largest classes", "written"),
            [
                (
                    r["image"],
                    f"{r['seconds']:.2f}" + (f", {r['late_ms']:.0f} ms late" if r["late_ms"] else ""),
                    f"{r['phases_done']} of {r['phases']}",
                    _shares(r["classes"]),
                    ", ".join(r["written"]),
                )
                for r in document["images"]
            ],
        )


def _label(session: Session, path: Path, output: Path, options: _Options, advance: Advance) -> dict[str, Any]:
    """Label one image, write what comes of it, and give its entry in the document."""
    import numpy as np

    from smp_deploy.images import Wanted, frame_from_file, resized, resized_labels

    manifest, wanted = session.manifest, session.grid.frame_size
    frame = frame_from_file(path, None if options.resize else Wanted.by_bundle(wanted, _RESIZE_HINT))
    fits = frame.shape[:2] == wanted
    started = time.perf_counter()
    fitting = frame if fits else resized(frame, wanted)
    # The first phase of a large frame may take a minute: something is to be seen before it.
    advance(0, len(session.grid.phases))
    late_ms: float | None = None
    if options.deadline_ms is None:
        predictions, phases_done = session.predict(fitting, on_progress=advance), len(session.grid.phases)
    else:
        refinement = session.predict(fitting, deadline_ms=options.deadline_ms, on_progress=advance)
        predictions, phases_done = refinement.prediction, refinement.phases_done
        late_ms = round(refinement.late_ms, 3)
        if late_ms:
            note(f"{path}: the deadline of {options.deadline_ms:g} ms was missed by {late_ms:.0f} ms")
    seconds = time.perf_counter() - started
    contents = {}
    if manifest.outputs is OutputKind.LABELS:
        labels = predictions
    else:
        contents[f"{path.stem}-{manifest.outputs.value}.npy"] = _bytes(lambda file: np.save(file, predictions))
        labels = predictions.argmax(0)
    manifest.check_classes(int(labels.max()) + 1)
    shares = np.bincount(labels.ravel(), minlength=len(manifest.classes)) / labels.size
    if len(manifest.classes) <= _MOST_PICTURED:
        labels = labels.astype(np.uint8)
        shown = labels if fits else resized_labels(labels, (frame.shape[0], frame.shape[1]))
        contents |= _pictures(path, frame, shown, manifest.classes, options)
    for name, content in contents.items():
        write_file(output / name, content, replace=options.replace)
    classes = {manifest.classes[index].name: float(shares[index]) for index in np.argsort(-shares) if shares[index]}
    return {
        "image": str(path),
        "seconds": round(seconds, 3),
        "phases_done": phases_done,
        "phases": len(session.grid.phases),
        "late_ms": late_ms,
        "classes": classes,
        "written": list(contents),
    }


def _pictures(
    path: Path, frame: NDArray[np.uint8], labels: NDArray[np.uint8], classes: list[ClassRecord], options: _Options
) -> dict[str, bytes]:
    from PIL import Image

    from smp_deploy.pictures import indexed_labels, overlay, side_by_side

    pictures = {
        "labels": indexed_labels(labels, classes),
        "overlay": Image.fromarray(overlay(frame, labels, classes)),
    }
    if options.side_by_side:
        pictures["side-by-side"] = side_by_side(frame, labels, classes, path.name)
    return {f"{path.stem}-{kind}.png": _bytes(partial(p.save, format="PNG")) for kind, p in pictures.items()}


def _bytes(save: Callable[[BytesIO], object]) -> bytes:
    """What ``save`` writes into a file."""
    buffer = BytesIO()
    save(buffer)
    return buffer.getvalue()


def _share(advance: Advance, session: Session, index: int, images: int) -> Advance:
    """Progress over all images, from the progress of one."""
    phases = len(session.grid.phases)
    return lambda done, _: advance(index * phases + done, images * phases)


def _shares(classes: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in list(classes.items())[:3])


def _kinds(manifest: Manifest, options: _Options) -> list[str]:
    """The ends of the names of an image's results: those that :func:`_label` writes."""
    floats = [] if manifest.outputs is OutputKind.LABELS else [f"{manifest.outputs.value}.npy"]
    if len(manifest.classes) > _MOST_PICTURED:
        return floats
    return [*floats, "labels.png", "overlay.png", *(["side-by-side.png"] if options.side_by_side else [])]


def _is_beside(files: list[Path], output: Path) -> bool:
    """Whether the folder is one of an image: there lies what is no result, other images and labels of a person."""
    return output.resolve() in {folder for path in files for folder in (path.parent.resolve(), path.resolve().parent)}


def _refuse_to_overwrite(files: list[Path], output: Path, kinds: list[str]) -> None:
    for path in files:
        for kind in kinds:
            if (target := output / f"{path.stem}-{kind}").exists():
                raise InputError(f"{target} would be overwritten by a result of {path}; choose another -o")


def _refuse_equal_names(files: list[Path]) -> None:
    repeated = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
    if repeated:
        raise InputError(f"several images are named {repeated[0]!r}; their results would overwrite each other")
