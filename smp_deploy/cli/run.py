"""``smp-deploy run``."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engines.backends import BACKENDS
from engines.bundle import Bundle
from engines.errors import InputError, OutputError
from engines.manifest import OutputKind, Precision
from smp_deploy.cli.console import Advance, print_json, print_table, progress
from smp_deploy.cli.options import bundle_argument, json_option, precision_option

if TYPE_CHECKING:
    from engines.session import Session


@click.command("run", short_help="Label images with a bundle.")
@bundle_argument
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the results.")
@click.option(
    "--backend", type=click.Choice(BACKENDS), default="onnxruntime", show_default=True, help="What runs the graphs."
)
@precision_option
@click.option(
    "--sub-batch", type=click.IntRange(1), default=1, show_default=True, help="Phases at a time; more take more memory."
)
@click.option("--resize", is_flag=True, help="Resize images to the bundle's size, and labels back.")
@click.option("--side-by-side", is_flag=True, help="Also write frame, overlay and labels in one picture with a legend.")
@json_option
def run_command(
    bundle: Path,
    images: tuple[str, ...],
    output: Path,
    backend: str,
    precision: str,
    sub_batch: int,
    resize: bool,
    side_by_side: bool,
    as_json: bool,
) -> dict[str, Any]:
    """Label IMAGES (files, folders or patterns) with BUNDLE and write pictures.

    For every image NAME: NAME-labels.png, an indexed PNG whose pixel values are the classes, and
    NAME-overlay.png. A bundle of logits or probabilities also gives NAME-logits.npy or NAME-probabilities.npy,
    float32 (classes, H, W).
    """
    from engines.session import Session
    from smp_deploy.images import image_files

    files = image_files(images)
    _refuse_equal_names(files)
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; -o names the folder for the results")
    opened = Bundle.open(bundle)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {output}: {error.strerror}") from error
    results = []
    with (
        Session.open(opened, backend, precision=Precision(precision), sub_batch=sub_batch) as session,
        progress(f"{len(files)} image{'s' if len(files) > 1 else ''}, phases") as advance,
    ):
        for index, path in enumerate(files):
            of_all = _share(advance, session, index, len(files))
            results.append(_label(session, path, output, resize, side_by_side, of_all))
    document = {"bundle": str(bundle), "backend": backend, "images": results}
    if as_json:
        print_json(document)
    else:
        print_table(
            ("image", "seconds", "largest classes", "written"),
            [(r["image"], f"{r['seconds']:.2f}", _shares(r["classes"]), ", ".join(r["written"])) for r in results],
        )
    return document


def _label(
    session: Session, path: Path, output: Path, resize: bool, with_side_by_side: bool, advance: Advance
) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    from smp_deploy.images import check_size, frame_from_file, resized, resized_labels
    from smp_deploy.pictures import indexed_labels, overlay, side_by_side

    frame = frame_from_file(path)
    shown_size, wanted = frame.shape[:2], session.grid.frame_size
    if not resize:
        check_size(path, frame, wanted, ", or let --resize adapt the image")
    started = time.perf_counter()
    predictions = session.predict(resized(frame, wanted) if shown_size != wanted else frame, on_progress=advance)
    seconds = time.perf_counter() - started
    manifest = session.manifest
    is_labels = manifest.outputs is OutputKind.LABELS
    labels = np.asarray(predictions if is_labels else predictions.argmax(0), np.uint8)
    if shown_size != wanted:
        labels = resized_labels(labels, (shown_size[0], shown_size[1]))
    pictures = {
        f"{path.stem}-labels.png": indexed_labels(labels, manifest.classes),
        f"{path.stem}-overlay.png": Image.fromarray(overlay(frame, labels, manifest.classes)),
    }
    if with_side_by_side:
        pictures[f"{path.stem}-side-by-side.png"] = side_by_side(frame, labels, manifest.classes, path.name)
    for name, picture in pictures.items():
        _save(output / name, picture.save)
    written = list(pictures)
    if not is_labels:
        written.append(f"{path.stem}-{manifest.outputs.value}.npy")
        _save(output / written[-1], lambda target: np.save(target, predictions))
    counts = Counter(dict(enumerate(np.bincount(labels.ravel(), minlength=len(manifest.classes)).tolist())))
    shares = {manifest.classes[index].name: count / labels.size for index, count in counts.most_common() if count}
    return {"image": str(path), "seconds": round(seconds, 3), "classes": shares, "written": written}


def _save(path: Path, write: Any) -> None:
    partial = path.with_name(f".partial-{path.name}")
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _share(advance: Advance, session: Session, index: int, images: int) -> Advance:
    """Progress over all images, from the progress of one."""
    phases = len(session.grid.phases)
    return lambda done, _: advance(index * phases + done, images * phases)


def _shares(classes: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in list(classes.items())[:3])


def _refuse_equal_names(files: list[Path]) -> None:
    repeated = [stem for stem, count in Counter(path.stem for path in files).items() if count > 1]
    if repeated:
        raise InputError(f"several images are named {repeated[0]!r}; their results would overwrite each other")
