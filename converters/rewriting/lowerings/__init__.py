"""Lowerings: how the splits that stay inside a trunk are computed. One form a file, with its algebra.

All give the same logits up to rounding. Which one is fastest depends on the device and is measured there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, fx

from converters.rewriting.loops import LoopedNetwork
from engines.schedules.schedule import Lowering


@dataclass(frozen=True, eq=False)
class LoweredNetwork:
    """A looped network in one of the lowerings: what a trunk is made from. Nobody changes its graph."""

    looped: LoopedNetwork
    """The loop that it is for."""
    lowering: Lowering
    graph: fx.GraphModule
    """Windows, and offsets where there are inner windows, to logits before the last merges."""
    merges: tuple[Callable[[Tensor], Tensor], ...]
    """What puts the predictions of the split batches at their places, one merge after the other."""


def lowered(network: LoopedNetwork, lowering: Lowering) -> LoweredNetwork:
    """A looped network in a lowering.

    Raises :class:`~engines.errors.NetworkError`, naming the layer, for what the lowering does not understand.
    """
    from converters.rewriting.lowerings.dilated import dilated
    from converters.rewriting.lowerings.reshape import reshaped
    from converters.rewriting.lowerings.strided import strided

    return {Lowering.RESHAPE: reshaped, Lowering.STRIDED: strided, Lowering.DILATED: dilated}[lowering](network)
