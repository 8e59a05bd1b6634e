"""Losses over sampled elements: class-weighted cross-entropy and Lovász-softmax."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from smp_deploy.training.config import Loss


def training_loss(logits: Tensor, labels: Tensor, config: Loss, weights: Tensor | None, ignore_id: int) -> Tensor:
    """The loss of logits ``(n, classes, h, w)`` against labels ``(n, h, w)`` int64; a scalar, float32.

    Zero, with a gradient of zero, where every label is ignored.
    """
    logits = logits.float()
    valid = labels != ignore_id
    if not bool(valid.any()):
        return logits.sum() * 0
    loss = F.cross_entropy(logits, labels, weights, ignore_index=ignore_id)
    if config.lovasz:
        pixels = logits.permute(0, 2, 3, 1)[valid]
        loss = loss + config.lovasz * lovasz_softmax(pixels.softmax(1), labels[valid])
    return loss


def lovasz_softmax(probabilities: Tensor, labels: Tensor) -> Tensor:
    """The Lovász-softmax loss (Berman, Triki and Blaschko 2018) of the classes that are present.

    ``probabilities (pixels, classes)``, ``labels (pixels,)`` int64, none ignored. For hard predictions it is the
    mean of ``1 - IoU`` over the present classes.
    """
    losses = []
    for number in torch.unique(labels).tolist():
        foreground = (labels == number).to(probabilities.dtype)
        errors, order = (foreground - probabilities[:, number]).abs().sort(descending=True)
        losses.append(torch.dot(errors, _jaccard_gradient(foreground[order])))
    return torch.stack(losses).mean()


def _jaccard_gradient(foreground: Tensor) -> Tensor:
    """How much the Jaccard loss grows with each further error, errors in descending order."""
    total = foreground.sum()
    intersection = total - foreground.cumsum(0)
    union = total + (1 - foreground).cumsum(0)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


def class_weights(counts: NDArray[np.int64], power: float) -> Tensor:
    """``(median frequency / frequency) ** power`` of each class, scaled to a mean of 1 over the pixels; float32.

    ``counts`` holds the pixels of each class. A class without pixels weighs 0: nothing can be learnt about it.
    """
    present = counts > 0
    frequencies = counts / max(1, counts.sum())
    weights = np.zeros(len(counts))
    weights[present] = (np.median(frequencies[present]) / frequencies[present]) ** power
    scale = float((weights * frequencies).sum())
    return torch.tensor(weights / scale if scale else weights, dtype=torch.float32)
