"""One step of training, and one look at the validation frames, for each kind of network."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from converters.networks import SMP, SegmentationNetwork
from engines.schedules.phases import padded_size
from smp_deploy.datasets.base import Dataset
from smp_deploy.evaluation.confusion import ConfusionMatrix
from smp_deploy.training.augment import normalised, padded_to, planes_from_image
from smp_deploy.training.config import Schedule, TrainingConfig
from smp_deploy.training.shrink import draw_sampling, sampled_labels, sampled_logits

_VALIDATION_DENSE_LEVELS = 2
"""With two levels split, one draw judges elements 8 pixels apart: spread over the frame, and cheap."""


def logits_and_labels(
    network: SegmentationNetwork, x: Tensor, labels: Tensor, dense_levels: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What the loss compares, of ``x (n, 3, H, W)`` and ``labels (n, H, W)``.

    SMP: the sampled elements, never a full-resolution map. FCN: every pixel.
    """
    if isinstance(network, SMP):
        sampling = draw_sampling(dense_levels, generator)
        return sampled_logits(network, x, sampling), sampled_labels(labels, sampling)
    return network(x), labels


def learning_rate_at(config: TrainingConfig, step: int, steps: int) -> float:
    """The learning rate of one step of ``steps``."""
    if config.schedule is Schedule.CONSTANT:
        return config.learning_rate
    part = (step + 0.5) / steps
    if part < config.warmup:
        return config.learning_rate * part / config.warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (part - config.warmup) / (1 - config.warmup)))


@torch.no_grad()
def validate(network: SegmentationNetwork, dataset: Dataset, *, phases: int, device: torch.device) -> ConfusionMatrix:
    """Judge a network in evaluation mode by a dataset's frames at full size.

    SMP: at ``phases`` draws of 16 of every 1024 elements, the same ones each time; their mean IoU is an unbiased
    guess of the whole frames', which ``smp-deploy evaluate`` gives. FCN: at every pixel.
    """
    network.eval()
    matrix = ConfusionMatrix(dataset.info)
    dense = isinstance(network, SMP)
    for index in range(len(dataset)):
        example = dataset.load(index)
        size = padded_size((example.labels.shape[0], example.labels.shape[1]), network.size_multiple)
        x = padded_to(normalised(planes_from_image(example.image)), size)[None].to(device)
        labels = padded_to(torch.from_numpy(example.labels.astype(np.int64)), size, value=dataset.info.ignore_id)[None]
        for draw in range(phases if dense else 1):
            generator = torch.Generator().manual_seed(index * 1024 + draw)
            logits, truth = logits_and_labels(network, x, labels, _VALIDATION_DENSE_LEVELS, generator)
            matrix.add(logits.argmax(1).cpu().numpy(), truth.numpy())
    return matrix


def label_counts(dataset: Dataset) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """How many pixels each class has in a dataset, ``(classes,)`` int64."""
    classes = len(dataset.info.classes)
    counts = np.zeros(classes, dtype=np.int64)
    for index in range(len(dataset)):
        counts += np.bincount(dataset.load(index).labels.ravel(), minlength=256)[:classes]
    return counts
