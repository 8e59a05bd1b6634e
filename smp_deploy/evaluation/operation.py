"""Evaluation as one call: a checkpoint, a bundle or anything that labels frames, judged by a dataset."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.backends import DEFAULT_BACKEND
from engines.backends.base import Backend
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import OutputKind
from engines.devices.names import DeviceName
from engines.errors import BackendError, InputError, MissingDependency, OutputError
from engines.schedules.schedule import Precision, Schedule
from smp_deploy.datasets import open_dataset
from smp_deploy.datasets.base import Dataset, DatasetInfo, check_same_classes
from smp_deploy.evaluation.evaluate import Advance, Evaluation, evaluation_of
from smp_deploy.evaluation.pictures import write_extremes
from smp_deploy.evaluation.predictors import BundlePredictor, NetworkPredictor, Predictor
from smp_deploy.evaluation.reports import replaces_evaluation, write_reports


def evaluate(
    source: str | Path | Bundle | Predictor,
    dataset: str | Dataset,
    *,
    root: str | Path | None = None,
    split: str = "val",
    limit: int | None = None,
    extremes: int = 3,
    phases: int | None = None,
    backend: str | Backend | None = None,
    precision: Precision | str | None = None,
    schedule: Schedule | None = None,
    memory: int | str | None = None,
    device: str | None = None,
    threads: int | None = None,
    model: str | None = None,
    weights: str | None = None,
    strip_prefix: str | None = None,
    output: str | Path | None = None,
    on_progress: Advance | None = None,
    on_result: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Judge what labels frames by labelled frames at full size, neither resized nor cropped.

    Args:
        source: the file of a checkpoint that :func:`smp_deploy.train` wrote, a bundle or its directory, or an object
            whose ``predict`` gives ``(H, W)`` uint8 labels for ``(H, W, 3)`` uint8 frames.
        dataset: a dataset, or the name of one: ``"camvid"``, ``"cityscapes"``, ``"gta5"``, ``"folder"``, ``"scenes"``.
        root: directory of a named dataset; scenes need none.
        split: part of a named dataset.
        limit: only the first so many frames.
        extremes: how many of the best and of the worst frames to name, and to draw into ``output``.
        phases: how many phases are computed, the other pixels take the nearest label; by default all.
        backend: of a bundle: a name of :data:`engines.backends.BACKENDS`; by default ONNX Runtime on the CPU.
        precision: of a bundle: which trunk; by default fp32.
        schedule: of a bundle: by default what :func:`engines.choose_schedule` chooses.
        memory: of a bundle: a budget, as for :meth:`engines.Session.open`.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; by default the CPU for a checkpoint, and the first of its backend
            for a bundle.
        threads: of a checkpoint: CPU threads of PyTorch.
        model: of a checkpoint of a network of one's own: its factory, ``"package.module:factory"``.
        weights: of a checkpoint: the part that counts, where there are several.
        strip_prefix: of a checkpoint: what to take off its keys; by default found by matching.
        output: directory for JSON, CSV and pictures of the extremes, where those of an earlier evaluation are replaced
            and nothing else; that it can be written to is seen to before the first frame.
        on_progress: called with ``(frames done, in all)``.
        on_result: called with the evaluation before ``output`` is written: hours of prediction outlive a full disk.

    Raises:
        InputError: an argument that is not for this source; other classes than the dataset's; no frames.
        DatasetError, CheckpointError, BundleError: a source or dataset that cannot be read.
        MachineError: a package, runtime or device is missing.
        OutputError: ``output`` cannot be written.
    """
    root, output = (None if path is None else Path(path) for path in (root, output))
    frames = open_dataset(dataset, root, split) if isinstance(dataset, str) else dataset
    of_bundle: dict[str, Any] = {"backend": backend, "precision": precision, "schedule": schedule, "memory": memory}
    of_checkpoint: dict[str, Any] = {
        "threads": threads,
        "model": model,
        "weights": weights,
        "strip_prefix": strip_prefix,
    }
    if isinstance(source, Bundle) or (isinstance(source, (str, Path)) and Path(source).is_dir()):
        _refuse(of_checkpoint, "a checkpoint", source)
        opening: Any = _bundle_predictor(source, frames.info, phases, device=device, **of_bundle)
    elif isinstance(source, (str, Path)):
        _refuse(of_bundle, "a bundle", source)
        opening = _checkpoint_predictor(Path(source), frames.info, phases, device=device, **of_checkpoint)
    else:
        _refuse(
            {"phases": phases, "device": device, **of_bundle, **of_checkpoint},
            "a bundle or a checkpoint",
            type(source).__name__,
        )
        opening = _as_it_is(source)
    with opening as (predictor, ran):
        replace_output = output is not None and _made(output)
        found = evaluation_of(predictor, frames, extremes=extremes, limit=limit, on_progress=on_progress)
        found = replace(found, schedule=ran)
        if on_result is not None:
            on_result(found)
        if output is not None:
            write_reports(found, output, replace=replace_output)
            write_extremes(found, predictor, frames, output, replace=replace_output)
    return found


_Opened = Iterator[tuple[Predictor, Schedule | None]]
"""What labels frames, and its schedule where it is a bundle."""


@contextmanager
def _as_it_is(predictor: Predictor) -> _Opened:
    yield predictor, None


@contextmanager
def _bundle_predictor(
    source: str | Path | Bundle,
    info: DatasetInfo,
    phases: int | None,
    *,
    backend: str | Backend | None,
    precision: Precision | str | None,
    schedule: Schedule | None,
    memory: int | str | None,
    device: str | None,
) -> _Opened:
    from engines.session import Session

    with Session.open(
        source,
        backend or DEFAULT_BACKEND,
        precision=precision or Precision.FP32,
        schedule=schedule,
        memory=memory,
        device=device,
    ) as session:
        bundle = session.bundle
        # Also what it does not read; what was read is verified.
        bundle.verify()
        outputs = session.manifest.outputs
        if outputs is not OutputKind.LABELS:
            raise InputError(f"{bundle.path} gives {outputs.value}; a bundle of labels can be evaluated")
        check_same_classes(bundle.path, [record.name for record in session.manifest.classes], info)
        yield session if phases is None else BundlePredictor(session, phases), session.schedule


@contextmanager
def _checkpoint_predictor(
    source: Path,
    info: DatasetInfo,
    phases: int | None,
    *,
    device: str | None,
    threads: int | None,
    model: str | None,
    weights: str | None,
    strip_prefix: str | None,
) -> _Opened:
    try:
        import torch

        from smp_deploy.training import network_from_weights
    except ImportError as error:
        raise MissingDependency(error.name or "torch", "train") from error
    if threads:
        torch.set_num_threads(threads)
    name = DeviceName.parse(device or "cpu")
    if name.kind == "cuda" and torch.cuda.device_count() <= name.index:
        raise BackendError(f'evaluation on {name} was asked for, and PyTorch sees no such device; use device="cpu"')
    network, held = network_from_weights(source, model, weights=weights, strip_prefix=strip_prefix)
    check_same_classes(source, held.dataset.classes, info)
    yield NetworkPredictor(network, phases=phases, device=str(name)), None


def _refuse(arguments: dict[str, Any], kind: str, source: object) -> None:
    """An argument that means nothing for this source is an error, not a silence."""
    named = source.path if isinstance(source, Bundle) else source
    for name, value in arguments.items():
        if value is not None:
            raise InputError(f"{name}= is for {kind}; {named} is none")


def _made(output: Path) -> bool:
    """The directory for the results, before hours are spent on them; whether it holds earlier ones to be replaced."""
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file; results go into a folder")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass  # it can be written to
        return replaces_evaluation(output)
    except OSError as error:
        raise OutputError(f"cannot write to {output}: {error.strerror}") from error
