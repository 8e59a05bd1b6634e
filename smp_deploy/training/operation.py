"""Training as one call: labelled frames in, weights out."""

from __future__ import annotations

from pathlib import Path

import torch

from engines.errors import InputError, OutputError
from smp_deploy.datasets import open_dataset
from smp_deploy.datasets.base import Dataset
from smp_deploy.training.config import TrainingConfig
from smp_deploy.training.metrics import Measurement
from smp_deploy.training.trainer import Observer, Run, Trainer


def train(
    dataset: str | tuple[Dataset, Dataset],
    output: str | Path,
    config: TrainingConfig | None = None,
    *,
    root: str | Path | None = None,
    device: str = "cpu",
    workers: int = 0,
    save_every: int | None = None,
    init_from: str | Path | None = None,
    weights: str | None = None,
    strip_prefix: str | None = None,
    threads: int | None = None,
    resume: bool = False,
    observer: Observer | None = None,
) -> Measurement:
    """Train a network by shrink-expand steps (section 3.2); a run that was killed goes on with ``resume``.

    Args:
        dataset: its name, ``"camvid"``, ``"cityscapes"``, ``"gta5"``, ``"folder"`` or ``"scenes"``, whose parts
            ``train`` and ``val`` are used; or the frames to train with and those to validate with.
        output: the file of the weights, ``first.safetensors``, written when the run ends. The directory ``first.run``
            beside it gets ``state.pt``, which a run is resumed from, every ``save_every`` steps and at the end; and
            with every measurement ``metrics.csv``, ``curves.png`` (with matplotlib) and the events of TensorBoard in
            ``events/`` (with tensorboardX).
        config: network, optimisation and augmentation; by default SMP-ResNet-18 by the paper's protocol.
        root: directory of a named dataset; scenes need none.
        device: ``"cpu"`` or ``"cuda"``.
        workers: processes that prepare batches ahead.
        save_every: steps between saved states; by default an epoch.
        init_from: a checkpoint to start from, another network's of the same backbone perhaps.
        weights: of ``init_from``: the part that counts, where there are several.
        strip_prefix: of ``init_from``: what to take off its keys; by default found by matching.
        threads: CPU threads of PyTorch; by default as it stands.
        resume: go on with the run of this output, if there is one.
        observer: who is told how the run goes.

    Returns:
        The measurement of the weights that were written.

    Raises:
        InputError: a configuration that cannot be trained, or parts with different classes.
        DatasetError, CheckpointError, NetworkError: data, weights or a network that cannot be used.
        OutputError: ``output`` has another suffix, cannot be written, or there is a run already.
        CheckFailed: the loss or the weights are no longer numbers.
        BackendError: the device is missing.
    """
    root, init_from = (None if path is None else Path(path) for path in (root, init_from))
    if init_from is None and (weights is not None or strip_prefix is not None):
        raise InputError("weights= and strip_prefix= are for init_from=, the checkpoint to start from")
    run = Run(Path(output), device, workers, save_every, init_from, weights, strip_prefix)
    if run.output.suffix != ".safetensors":
        raise OutputError(f"weights are written as .safetensors; received {run.output}")
    if threads:
        torch.set_num_threads(threads)
    config, observer = config or TrainingConfig(), observer or Observer()
    if isinstance(dataset, str):
        dataset = open_dataset(dataset, root, "train"), open_dataset(dataset, root, "val")
    frames, validation = dataset
    observer.note(f"{config.network_name} on {len(frames)} frames of {frames.info.name}, {config.epochs} epochs")
    return Trainer(config, frames, validation, run).fit(observer, resume=resume)
