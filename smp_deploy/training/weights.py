"""Weights on disk: safetensors with the facts that rebuild the network."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from converters.checkpoints import Checkpoint, checkpoint_from_file, load_checkpoint, network_from_checkpoint
from converters.densifying import Densification, densified
from converters.networks import network_from_factory
from engines.bundle.documents import json_of
from engines.bundle.gate import write_file
from engines.bundle.manifest import ClassRecord
from engines.errors import CheckpointError, InputError, OutputError
from engines.schedules.phases import Size
from engines.text import check_name
from smp_deploy.datasets.base import DatasetInfo


@dataclass(frozen=True)
class WeightsInfo:
    """What is needed to rebuild a network and to read its predictions."""

    dataset: DatasetInfo
    arch: str | None
    """A known architecture, or ``None`` for a network of one's own."""
    width: int | None
    """Channels of the architecture's stem."""
    model: str | None = None
    """The factory of a network of one's own, ``"package.module:factory"``."""
    training: str = "{}"
    """The configuration it was trained with, as JSON."""
    dense: tuple[Densification, Size] | None = None
    """How a strided network was made dense to be trained, and for which size."""


def save_weights(path: Path, state: Mapping[str, Tensor], info: WeightsInfo) -> None:
    """Write a state dict as safetensors, whole or not at all.

    A file that is there stays; where it holds anything else that is an :class:`OutputError`.
    """
    from safetensors.torch import save

    named = {"arch": info.arch, "width": info.width, "model": info.model}
    metadata = {
        **{name: str(value) for name, value in named.items() if value is not None},
        "classes": str(len(info.dataset.classes)),
        "dataset": info.dataset.name,
        "class_names": json.dumps(info.dataset.classes),
        "colours": json.dumps(info.dataset.colours),
        "ignore_id": str(info.dataset.ignore_id),
        "thin": json.dumps(info.dataset.thin),
        "training": info.training,
    }
    tensors = {key: value.contiguous() for key, value in state.items()}
    try:
        write_file(path, save(tensors, metadata), replace=False)
    except OutputError:
        # A run that is resumed at its end finds the weights that it wrote.
        if not _holds(path, tensors, metadata):
            raise


def _holds(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bool:
    """Whether a file holds just these tensors and metadata."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it has no other iterator
            same = file.metadata() == metadata
    except (OSError, SafetensorError):
        return False
    return same and held.keys() == tensors.keys() and all(torch.equal(held[key], tensors[key]) for key in held)


def network_from_weights(
    path: Path, model: str | None = None, *, weights: str | None = None, strip_prefix: str | None = None
) -> tuple[nn.Module, WeightsInfo]:
    """The network of a file that :func:`save_weights` wrote, in evaluation mode, float32, and its facts.

    Args:
        path: the checkpoint. It alone makes no code run.
        model: the factory of a network of one's own, ``"package.module:factory"``, for a checkpoint of such a one.
        weights: the part of it that counts, where there are several.
        strip_prefix: what to take off its keys; by default found by matching.

    Raises:
        CheckpointError: the file is absent, damaged, not of :func:`save_weights` or of another network; or it holds a
            network of one's own and ``model`` is not given.
        InputError: ``model`` is given for a known architecture.
        NetworkError: the factory gives no network.
    """
    checkpoint = checkpoint_from_file(path, weights=weights, strip_prefix=strip_prefix)
    info = _info_of(checkpoint)
    if info.arch is None:
        if model is None:
            raise CheckpointError(
                f"{path} holds the weights of a network of your own, and a file alone makes no code run; name its "
                f'factory: model="{info.model}"'
            )
        network = network_from_factory(model)
        load_checkpoint(network, checkpoint)
        return _as_trained(network, info), info
    if model is not None:
        raise InputError(f'{path} holds the weights of {info.arch}, which needs no model=; received model="{model}"')
    assert info.width is not None
    classes = len(info.dataset.classes)
    return _as_trained(network_from_checkpoint(checkpoint, info.arch, classes=classes, width=info.width), info), info


def _as_trained(network: nn.Module, info: WeightsInfo) -> nn.Module:
    """In evaluation mode, and made dense if it was trained so."""
    if info.dense is not None:
        densification, size = info.dense
        network, _ = densified(network, size, densification)
    return network.eval()


def classes_of(checkpoint: Checkpoint) -> list[ClassRecord] | None:
    """The classes that a checkpoint of :func:`save_weights` was trained for; ``None`` for another one.

    Raises :class:`InputError` for a name that is none.
    """
    if "class_names" not in checkpoint.metadata:
        return None
    info = _info_of(checkpoint).dataset
    for index, name in enumerate(info.classes):
        check_name(name, f"{checkpoint.path}, class {index}")
    pairs = zip(info.classes, info.colours, strict=True)
    return [ClassRecord(name=name, color=colour) for name, colour in pairs]


def _info_of(checkpoint: Checkpoint) -> WeightsInfo:
    path, metadata = checkpoint.path, checkpoint.metadata
    try:
        names, colours = json_of(metadata["class_names"]), json_of(metadata["colours"])
        if not all(isinstance(name, str) for name in names):
            raise ValueError("class_names are texts")
        if not all(isinstance(channel, int) and 0 <= channel <= 255 for colour in colours for channel in colour):
            raise ValueError("colours lie in [0, 255]")
        dataset = DatasetInfo(
            metadata["dataset"],
            tuple(names),
            tuple((red, green, blue) for red, green, blue in colours),
            int(metadata["ignore_id"]),
            tuple(json_of(metadata["thin"])),
        )
        training = metadata.get("training", "{}")
        if "model" in metadata:
            # It is shown as something to type.
            if not re.fullmatch(r"[\w.]+:\w+", metadata["model"]):
                raise ValueError(f"{metadata['model']!r} is no package.module:factory")
            return WeightsInfo(dataset, None, None, metadata["model"], training, _dense(training))
        return WeightsInfo(dataset, metadata["arch"], int(metadata["width"]), None, training, _dense(training))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its metadata do not say which network and classes it holds ({error}); "
            "checkpoints of `smp-deploy train` do"
        ) from error


def _dense(training: str) -> tuple[Densification, Size] | None:
    """What a configuration says of it. Raises what a document of other types raises."""
    document = json_of(training)
    if not isinstance(document, dict):
        raise ValueError("training is an object")
    said = document.get("densification")
    if said is None:
        return None
    height, width = document["augmentation"]["crop"]
    return Densification.of(said["until"], said["upsampling"], said["max_pool"]), (int(height), int(width))
