"""What every lowering gives."""

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
