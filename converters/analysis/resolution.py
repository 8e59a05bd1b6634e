"""Where a network loses resolution: layers after which a map has fewer rows and columns, and no split has kept them.

A split keeps every element of a map, as entries of the batch. A stride, a pool or a resize to a smaller map does not:
what it leaves out is nowhere computed, and a resize back to the frame only spreads what is left. Such layers are no
levels either, so that no loop can walk them, and the maps before them are held for all of a phase.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.network import TracedNetwork
from converters.analysis.received import pinned_defaults
from engines.schedules.phases import Size

_ADAPTIVE = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
_MOST_NAMED = 3


@dataclass(frozen=True)
class LostResolution:
    """The layers of a network that make maps smaller, and those that make them larger again."""

    reducing: tuple[str, ...]
    """As the user knows them, in the order of their execution."""
    enlarging: tuple[str, ...]

    def warning(self, levels: int) -> str:
        """What this means, and the way to a network that keeps what it has, with ``levels`` of splits so far."""
        back = f", and resizes back at {_listed(self.enlarging)}" if self.enlarging else ""
        held = "a phase" if levels else "the frame"
        return (
            f"the network loses resolution at {_listed(self.reducing)}{back}: what lies between is not computed at "
            f"every pixel, and no loop can walk these layers, so that memory holds their maps of {held} as a whole. "
            "smp_deploy.densify(network, size) makes each a layer of stride 1 with a split behind it, under the same "
            "weights: the network at every shift of the frame, a prediction of its own for every pixel"
        )


def lost_resolution(network: TracedNetwork, size: Size) -> LostResolution | None:
    """The layers that lose resolution on an image of ``size``; ``None`` where there are none.

    Means over a whole map, and pools to a number of cells, are context and not counted. Raises what the layers raise on
    an image of this size.
    """
    shapes = _Shapes(network.graph)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), pinned_defaults():
        shapes.run(torch.empty(1, 3, *size))
    pools = {*network.levels.splits, *network.levels.merges}
    changed = [(node, step) for node, step in shapes.steps if node not in pools and not _is_other(network.graph, node)]
    reducing, enlarging = _names(changed, -1), _names(changed, 1)
    return LostResolution(reducing, enlarging) if reducing else None


def _names(changed: Sequence[tuple[fx.Node, int]], step: int) -> tuple[str, ...]:
    named = (str(node.target) if node.op == "call_module" else node.name for node, made in changed if made == step)
    return tuple(dict.fromkeys(named))


class _Shapes(fx.Interpreter):
    """Follows the sizes of maps."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.steps: list[tuple[fx.Node, int]] = []
        """The nodes that make a map smaller by half at least, -1, or larger, 1."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        before = [size for held in n.all_input_nodes for size in _sizes_of(self.env.get(held))]
        for size in _sizes_of(result):
            # A layer that crops a border is none that leaves out every second row.
            if before and size != (1, 1) and _is_larger(max(before), size):
                self.steps.append((n, -1))
            elif before and max(before) != (1, 1) and _is_larger(size, max(before)):
                self.steps.append((n, 1))
        return result


def _sizes_of(value: Any) -> Iterator[Size]:
    if isinstance(value, Tensor) and value.ndim == 4:
        yield int(value.shape[2]), int(value.shape[3])


def _is_larger(size: Size, other: Size) -> bool:
    """Whether one of the sides is about twice as long at least; kernels without padding make it a little less."""
    return any(side > 4 and 3 * short <= 2 * side for side, short in zip(size, other, strict=True))


def _is_other(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a layer makes maps smaller in another way: by its missing padding, or as context."""
    if node.op == "call_module":
        layer = graph.get_submodule(str(node.target))
        return isinstance(layer, _ADAPTIVE) or (isinstance(layer, nn.Conv2d) and layer.stride == (1, 1))
    if node.target is F.pad or (node.target is F.conv2d and _stride(node) in (1, (1, 1))):
        # The kernel of an upsampling, on a small frame.
        return True
    return "adaptive" in getattr(node.target, "__name__", str(node.target))


def _stride(node: fx.Node) -> Any:
    return node.args[3] if len(node.args) > 3 else node.kwargs.get("stride", 1)


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    return f"{shown} and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else shown
