"""Networks to train: by their name, or from a user's own factory; and whether one fits its data, before a step."""

from __future__ import annotations

import copy

import torch
from torch import nn

from converters.densifying import densified
from converters.networks import network_from_arch, network_from_factory
from engines.errors import InputError, NetworkError
from smp_deploy.datasets.base import DatasetInfo
from smp_deploy.training.config import TrainingConfig
from smp_deploy.training.sampling import draw_sampling, sampled_labels, sampled_logits, training_form


def network_from_config(config: TrainingConfig, info: DatasetInfo) -> nn.Module:
    """The network that a configuration names, for a dataset's classes, in training mode.

    Raises :class:`NetworkError` for a name that is not known or a factory that gives no network, and
    :class:`InputError` where :func:`check_fits` finds that it cannot be trained like this.
    """
    if config.model is not None:
        network: nn.Module = network_from_factory(config.model)
    else:
        assert config.arch is not None
        assert config.width is not None
        network = network_from_arch(config.arch, classes=len(info.classes), width=config.width)
    if config.densification is not None:
        network, _ = densified(network, config.augmentation.crop, config.densification)
    network.train()
    check_fits(network, config, info)
    return network


def check_fits(network: nn.Module, config: TrainingConfig, info: DatasetInfo) -> None:
    """One step without values: sizes, classes and batch norms, in a moment whatever the network's size.

    Raises :class:`InputError` for crops that the network cannot take, other classes than the dataset's, or batch
    norms without a variance, :class:`NetworkError` where the network cannot be trained at all.
    """
    form = training_form(copy.deepcopy(network).to("meta"), config.dense_levels, config.augmentation.crop)
    crop, (rows, columns) = config.augmentation.crop, form.size_multiple
    if crop[0] % rows or crop[1] % columns:
        raise InputError(f"training: crop= must be multiples of {rows}x{columns}; received {crop}")
    sampling = draw_sampling(form, torch.Generator().manual_seed(0))
    x = torch.empty(config.batch, 3, *crop, device="meta")
    labels = torch.empty(config.batch, *crop, dtype=torch.int64, device="meta")
    try:
        logits = tuple(sampled_logits(form, x, sampling).shape)
    except Exception as error:
        # The network is the user's code and may raise anything.
        if "more than 1 value per channel" in str(error):
            raise InputError(
                f"training: batch={config.batch} with crop= of {crop[0]}x{crop[1]} leaves the last batch norms one "
                "element to normalise; choose a larger batch or crop"
            ) from error
        raise NetworkError(
            f"{config.network_name} cannot take {config.batch} crops of {crop[0]}x{crop[1]}: {error}"
        ) from error
    truth = tuple(sampled_labels(labels, sampling).shape)
    if len(logits) != 4 or (logits[0], *logits[2:]) != truth:
        raise NetworkError(
            f"a network maps (n, 3, H, W) to logits (n, classes, H, W); {config.network_name} gives logits of {logits} "
            f"for labels of {truth}"
        )
    if logits[1] != len(info.classes):
        raise InputError(
            f"{config.network_name} has {logits[1]} classes, and {info.name} has {len(info.classes)}: "
            f"{', '.join(info.classes)}; build the network with as many"
        )
