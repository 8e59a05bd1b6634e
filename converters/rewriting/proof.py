"""Proof that a rewritten network is still the network, on the network itself.

A rewrite looks at layers, and some things cannot be seen there: a layer that mixes entries of the batch, or a
random choice. So every export computes a small input both ways, the network as it was handed over at once,
and its rewritten form phase by phase, and compares.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.rewriting.loops import LoopedNetwork
from converters.rewriting.lowerings import LoweredNetwork
from engines.errors import NetworkError
from engines.schedules.phases import PhaseGrid, Size

_TOLERANCE = 1e-4
"""Relative to the largest logit: rounding stays far below, a mistake far above."""

_MOST_SUB_BATCHES = 8
"""Taken at equal distances from all: enough to meet every offset of every level."""


def prove_phases(network: nn.Module, looped: LoopedNetwork, form: LoweredNetwork, size_multiple: Size) -> None:
    """Compare phases with the whole on noise of the least size that has several positions in every split batch.

    Args:
        network: as it was handed over.
        looped: its rewrite for a loop over some levels.
        form: that rewrite in one of the lowerings.
        size_multiple: what the sides of an input are multiples of.

    Raises :class:`NetworkError` with the difference.
    """
    size = (2 * size_multiple[0], 3 * size_multiple[1])
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    grid = PhaseGrid(size, size, looped.cut_window, looped.border, looped.inner_windows)
    try:
        with torch.inference_mode():
            whole = network(x)
            if not torch.isfinite(whole).all():
                raise NetworkError("the network's logits are not finite on a frame of noise; check the checkpoint")
            difference = _largest_difference(form, x, grid, whole)
    except NetworkError:
        raise
    except Exception as error:
        # The network is the user's code and may raise anything.
        raise NetworkError(f"the network fails on an image of {size[0]}x{size[1]}: {error}") from error
    relative = difference / max(float(whole.abs().max()), torch.finfo(x.dtype).tiny)
    if not relative <= _TOLERANCE:
        raise NetworkError(
            f"computed phase by phase, the network differs from the whole by {relative:.1e} of its largest logit. "
            "A layer mixes entries of the batch or depends on chance: split batches are entries of the batch, and no "
            "layer may look from one to another"
        )


def _largest_difference(form: LoweredNetwork, x: Tensor, grid: PhaseGrid, whole: Tensor) -> float:
    top, left, bottom, right = grid.border
    planes = F.pad(x[0], (left, right, top, bottom)).numpy()
    # Several phases at a time where they can go together, so that an order of the batch axis that is wrong is seen;
    # three, so that the last sub-batch is a smaller one.
    together = grid.sub_batches(min(3, grid.largest_sub_batch))
    differences = []
    for phases in [*together[:: -(-len(together) // _MOST_SUB_BATCHES)], together[-1]]:
        inputs = [torch.from_numpy(grid.cut(planes, phases))]
        if grid.inner_windows:
            inputs.append(torch.from_numpy(grid.inner_offsets(phases)))
        logits = form.graph(*inputs)
        for merge in form.merges:
            logits = merge(logits)
        expected = torch.stack([whole[0, :, row :: grid.window[0], column :: grid.window[1]] for row, column in phases])
        if logits.shape != expected.shape:
            raise NetworkError(f"a phase of {tuple(expected.shape[1:])} logits came out as {tuple(logits.shape[1:])}")
        differences.append(float((logits - expected).abs().max()))
    return max(differences)
