"""Proof that a rewritten network is still the network, on the network itself.

A rewrite looks at layers, and some things cannot be seen there: a layer that mixes entries of the batch, or a
random choice. So every export computes a small input both ways, the network as it was handed over at once,
and its rewritten form phase by phase, and compares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.network import TracedNetwork
from converters.rewriting.lowerings.base import LoweredNetwork
from engines.errors import NetworkError
from engines.schedules.phases import PhaseGrid

_TOLERANCE = 1e-4
"""Relative to the largest logit: rounding stays far below, a mistake far above."""

_MOST_SUB_BATCHES = 8
"""Taken at equal distances from all: enough to meet every offset of every level."""


@dataclass(frozen=True, eq=False)
class NoiseCase:
    """What the network computes at once, as it was handed over."""

    x: Tensor
    """``(1, 3, H, W)`` float32."""
    logits: Tensor
    """``(1, classes, H, W)`` float32."""


def noise_case(network: TracedNetwork) -> NoiseCase:
    """Noise of the least size that has several positions in every split batch, and the network's logits.

    Raises :class:`NetworkError` when the network fails on it, or gives no numbers.
    """
    size = (2 * network.size_multiple[0], 3 * network.size_multiple[1])
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            logits = network.module(x)
    except Exception as error:
        # The network is the user's code and may raise anything.
        raise NetworkError(_failure(x, error)) from error
    if not torch.isfinite(logits).all():
        raise NetworkError("the network's logits are not finite on a frame of noise; check the checkpoint")
    return NoiseCase(x, logits)


def prove_phases(form: LoweredNetwork, case: NoiseCase) -> None:
    """Compare a rewritten network, phase by phase, with the whole. Raises :class:`NetworkError` with the difference."""
    size = (case.x.shape[2], case.x.shape[3])
    try:
        with torch.inference_mode():
            difference = _largest_difference(form, case, form.looped.grid(size, size))
    except NetworkError:
        raise
    except Exception as error:
        # So are the layers that the rewritten network is made of.
        raise NetworkError(_failure(case.x, error)) from error
    relative = difference / max(float(case.logits.abs().max()), torch.finfo(case.x.dtype).tiny)
    if not relative <= _TOLERANCE:
        raise NetworkError(
            f"computed phase by phase, the network differs from the whole by {relative:.1e} of its largest logit. "
            "A layer mixes entries of the batch or depends on chance: split batches are entries of the batch, and no "
            "layer may look from one to another"
        )


def _failure(x: Tensor, error: Exception) -> str:
    return f"the network fails on an image of {x.shape[2]}x{x.shape[3]}: {error}"


def _largest_difference(form: LoweredNetwork, case: NoiseCase, grid: PhaseGrid) -> float:
    top, left, bottom, right = grid.border
    planes = F.pad(case.x[0], (left, right, top, bottom)).numpy()
    # Several phases at a time where they can go together, so that an order of the batch axis that is wrong is seen;
    # three, so that the last sub-batch is a smaller one.
    together = grid.sub_batches(min(3, grid.largest_sub_batch))
    differences = []
    for phases in [*together[:: -(-len(together) // _MOST_SUB_BATCHES)], together[-1]]:
        logits = form.graph(*(torch.from_numpy(array) for array in grid.feed(planes, phases).values()))
        for merge in form.merges:
            logits = merge(logits)
        expected = torch.stack(
            [case.logits[0, :, row :: grid.window[0], column :: grid.window[1]] for row, column in phases]
        )
        if logits.shape != expected.shape:
            raise NetworkError(f"a phase of {tuple(expected.shape[1:])} logits came out as {tuple(logits.shape[1:])}")
        differences.append(float((logits - expected).abs().max()))
    return max(differences)
