"""Lowerings: how the splits that stay inside a trunk are computed. One form a file, with its algebra.

All give the same logits up to rounding. Which one is fastest depends on the device and is measured there.
"""

from __future__ import annotations

from converters.rewriting.loops import LoopedNetwork
from converters.rewriting.lowerings.base import LoweredNetwork
from converters.rewriting.lowerings.dilated import dilated
from converters.rewriting.lowerings.reshape import reshaped
from converters.rewriting.lowerings.strided import strided
from engines.schedules.schedule import Lowering

_LOWERINGS = {Lowering.RESHAPE: reshaped, Lowering.STRIDED: strided, Lowering.DILATED: dilated}


def lowered(network: LoopedNetwork, lowering: Lowering) -> LoweredNetwork:
    """A looped network in a lowering.

    Raises :class:`~engines.errors.NetworkError`, naming the layer, for what the lowering does not understand.
    """
    return _LOWERINGS[lowering](network)
