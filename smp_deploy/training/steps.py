"""One step of training, and one look at the validation frames."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor, nn

from converters.analysis.levels import total_window
from converters.reference import level_offsets
from converters.rewriting.sampling import SampledNetwork
from engines.schedules.phases import padded_size
from smp_deploy.datasets.base import Dataset
from smp_deploy.evaluation.confusion import ConfusionMatrix
from smp_deploy.training.augment import padded_to, planes_from_image
from smp_deploy.training.config import LearningRateSchedule, TrainingConfig
from smp_deploy.training.sampling import (
    Sampling,
    draw_sampling,
    sampled_labels,
    sampled_logits,
    validation_form,
)


def logits_and_labels(
    network: SampledNetwork, x: Tensor, labels: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What the loss compares, of ``x (n, 3, H, W)`` and ``labels (n, H, W)``.

    The sampled elements, never a full-resolution map; every pixel for a network without splits.
    """
    sampling = draw_sampling(network, generator)
    return sampled_logits(network, x, sampling), sampled_labels(labels, sampling)


def learning_rate_at(config: TrainingConfig, step: int, steps: int) -> float:
    """The learning rate of one step of ``steps``."""
    if config.schedule is LearningRateSchedule.CONSTANT:
        return config.learning_rate
    part = (step + 0.5) / steps
    if part < config.warmup:
        return config.learning_rate * part / config.warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (part - config.warmup) / (1 - config.warmup)))


@torch.no_grad()
def validate(network: nn.Module, dataset: Dataset, *, phases: int, device: torch.device) -> ConfusionMatrix:
    """Judge a network by a dataset's frames at full size; it is left in evaluation mode.

    At ``phases`` draws of the elements of :func:`~smp_deploy.training.sampling.validation_form` (for SMP-X, 16 of every
    1024 each), other ones for each frame and the same each time, none of them twice: their mean IoU is an unbiased
    guess of the whole frames', which ``smp-deploy evaluate`` gives. A network without splits is judged at every pixel.
    """
    network.eval()
    form_of = functools.cache(functools.partial(validation_form, network))
    matrix = ConfusionMatrix(dataset.info)
    for index in range(len(dataset)):
        example = dataset.load(index)
        form = form_of((example.labels.shape[0], example.labels.shape[1]))
        rows, columns = total_window(form.windows)
        size = padded_size((example.labels.shape[0], example.labels.shape[1]), form.size_multiple)
        x = padded_to(planes_from_image(example.image), size)[None].to(device)
        labels = padded_to(torch.from_numpy(example.labels.astype(np.int64)), size, value=dataset.info.ignore_id)[None]
        order = torch.randperm(rows * columns, generator=torch.Generator().manual_seed(index))
        for draw in order[:phases].tolist():
            offsets = level_offsets(list(form.windows), divmod(draw, columns))
            sampling = Sampling(form.windows, tuple(offsets), form.dense_windows)
            logits, truth = sampled_logits(form, x, sampling), sampled_labels(labels, sampling)
            matrix.add(logits.argmax(1).cpu().numpy(), truth.numpy())
    return matrix


def label_counts(dataset: Dataset) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """How many pixels each class has in a dataset, ``(classes,)`` int64."""
    classes = len(dataset.info.classes)
    counts = np.zeros(classes, dtype=np.int64)
    for index in range(len(dataset)):
        counts += np.bincount(dataset.load(index).labels.ravel(), minlength=256)[:classes]
    return counts
