"""Proof that a rewritten network is still the network, on the network itself.

A rewrite looks at layers, and some things cannot be seen there: a layer that mixes entries of the batch, or a
random choice. So every export computes a small input both ways, the network as it was handed over at once,
and its rewritten form phase by phase, and compares.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.pooling import merge
from converters.rewriting.windows import WindowedNetwork
from engines.errors import NetworkError
from engines.phases import PhaseGrid, Size

_TOLERANCE = 1e-4
"""Relative to the largest logit: rounding stays far below, a mistake far above."""


def prove_phases(network: nn.Module, windowed: WindowedNetwork, size_multiple: Size) -> None:
    """Compare the phases with the whole on noise of the least size that has several positions in every split batch.

    Raises :class:`NetworkError` with the difference.
    """
    size = (2 * size_multiple[0], 3 * size_multiple[1])
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            whole, phases = network(x), _phase_by_phase(windowed, x, size)
    except Exception as error:
        # The network is the user's code and may raise anything.
        raise NetworkError(f"the network fails on an image of {size[0]}x{size[1]}: {error}") from error
    if not torch.isfinite(whole).all():
        raise NetworkError("the network's logits are not finite on a frame of noise; check the checkpoint")
    difference = float((whole - phases).abs().max() / whole.abs().max().clamp_min(torch.finfo(x.dtype).tiny))
    if not difference <= _TOLERANCE:
        raise NetworkError(
            f"computed phase by phase, the network differs from the whole by {difference:.1e} of its largest logit. "
            "A layer mixes entries of the batch or depends on chance: split batches are entries of the batch, and no "
            "layer may look from one to another"
        )


def _phase_by_phase(windowed: WindowedNetwork, x: Tensor, size: Size) -> Tensor:
    grid = PhaseGrid(size, size, windowed.window, windowed.border)
    top, left, bottom, right = windowed.border
    planes = F.pad(x[0], (left, right, top, bottom)).numpy()
    merged: Tensor | None = None
    for phase in grid.phases:
        logits = windowed.graph(torch.from_numpy(grid.cut(planes, [phase])))
        for window in windowed.inner_merges:
            logits = merge(logits, window)
        if merged is None:
            merged = torch.empty(1, logits.shape[1], *size)
        grid.place(logits.numpy(), [phase], merged[0].numpy())
    assert merged is not None
    return merged
