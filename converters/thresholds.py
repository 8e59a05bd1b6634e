"""A network of one logit a pixel as one of two classes: its labels have a meaning, and all proofs hold of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from converters.analysis.received import working_copy
from engines.bundle.bundle import Bundle
from engines.errors import InputError


def with_threshold(network: nn.Module, probability: float) -> nn.Module:
    """A copy of a network with a second logit: class 1 is where the sigmoid of its own is above ``probability``.

    The second one is the same everywhere, and compared with the other pixel by pixel, so it goes through merges as the
    logits do. All parameters keep their names; two of a layer ``threshold`` are added.

    Args:
        network: maps ``(n, 3, H, W)`` to logits ``(n, 1, H, W)``.
        probability: of :func:`checked_threshold`.

    When it runs, it raises :class:`InputError` for other channels than one.
    """
    second = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        second.weight.copy_(torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1))
        second.bias.copy_(torch.tensor([math.log(probability / (1 - probability)), 0.0]))  # type: ignore[union-attr]
    copy = working_copy(network)
    name = "threshold"
    while hasattr(copy, name):
        name += "_"
    copy.add_module(name, second.eval())

    def compared(module: nn.Module, _: Any, logits: Tensor) -> Tensor:
        if logits.shape[1] != 1:
            raise InputError(f"threshold= is for a network of one logit a pixel; this one gives {int(logits.shape[1])}")
        layer: nn.Module = getattr(module, name)
        return layer(logits)  # type: ignore[no-any-return]

    copy.register_forward_hook(compared)
    return copy


def as_exported(bundle: Bundle, network: nn.Module | None) -> nn.Module | None:
    """The network that a bundle was exported from, with its threshold where it has one."""
    probability = bundle.manifest.network.threshold
    return network if network is None or probability is None else with_threshold(network, probability)


def checked_threshold(probability: object) -> float:
    """A probability above 0 and below 1. Raises :class:`InputError` for anything else."""
    if not isinstance(probability, (int, float)) or not 0 < probability < 1:
        raise InputError(f"threshold= is a probability above 0 and below 1; received {probability!r}")
    return float(probability)
