"""Which layer ties the entries of a batch together, found by running a network on two images and on one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from converters.analysis.received import pinned_defaults
from converters.analysis.tracing import name_of

_TOLERANCE = 1e-3
"""Relative to the largest value of a layer's output: far above rounding."""


def mixing_layer(graph: fx.GraphModule, x: Tensor) -> str | None:
    """The first layer whose output for an image depends on what else is in the batch, as its user knows it.

    Args:
        graph: of a network, without work in place.
        x: ``(1, 3, H, W)``.

    ``None`` where there is none, or where the network takes no two images.
    """
    alone = _Recorder(graph)
    together = _Recorder(graph)
    other = x.flip(2) * 2 + 1
    try:
        with torch.inference_mode(), pinned_defaults():
            alone.run(x.clone())
            together.run(torch.cat([x, other]))
    except Exception:  # noqa: BLE001 - the layers are the user's and may raise anything
        return None
    for node, value in alone.values.items():
        if _depends(value, together.values.get(node)):
            return name_of(node)
    # Or one that takes entries by their number: as many of one image as of two.
    return next((name_of(node) for node in alone.values if _takes_entries(node, alone.values, together.values)), None)


def _takes_entries(node: fx.Node, alone: Mapping[fx.Node, Any], together: Mapping[fx.Node, Any]) -> bool:
    """Whether a node makes a map of a fixed number of entries of one that has more where there are more images."""

    def grows(held: fx.Node) -> bool:
        one, two = alone[held], together[held]
        return isinstance(one, Tensor) and isinstance(two, Tensor) and one.shape != two.shape

    made = isinstance(alone[node], Tensor) and alone[node].ndim and not grows(node)
    return bool(made) and any(map(grows, node.all_input_nodes))


class _Recorder(fx.Interpreter):
    """Keeps what every node gives."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.values[n] = value.clone() if isinstance(value, Tensor) else value
        return value


def _depends(alone: Any, together: Any) -> bool:
    """Whether what a node gives for the first image is another one in company; split batches lie image by image."""
    if not (isinstance(alone, Tensor) and isinstance(together, Tensor)) or not alone.is_floating_point():
        return False
    if together.ndim == alone.ndim and together.ndim and len(together) == 2 * len(alone):
        together = together[: len(alone)]
    if together.shape != alone.shape or not alone.numel():
        return False
    scale = max(float(alone.abs().max()), torch.finfo(alone.dtype).tiny)
    return not float((alone - together).abs().max()) <= _TOLERANCE * scale
