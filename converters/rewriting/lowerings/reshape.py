"""Splits and merges as Reshape and Transpose: the reference, and what holds for every network.

``n c (i h) (j w) -> (n h w) c i j`` is a reshape to six dimensions, one permutation and a reshape; merge is its
inverse. The convolutions stay as they are.
"""

from __future__ import annotations

from functools import partial

from converters.pooling import merge
from converters.rewriting.loops import LoopedNetwork
from converters.rewriting.lowerings.base import LoweredNetwork
from engines.schedules.schedule import Lowering


def reshaped(network: LoopedNetwork) -> LoweredNetwork:
    """The network as it is: traced splits are functions that reshape and permute."""
    merges = tuple(partial(merge, window=window) for window in network.merges)
    return LoweredNetwork(network, Lowering.RESHAPE, network.graph, merges)
