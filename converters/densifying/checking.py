"""The identity that shows that a conversion is right, on the network itself.

At phase (0, 0) of all levels the dense network computes what the strided network computes for the image as it is. So
both are run on noise, in float64, and every map that they have in common is compared. It needs no trained weights, and
no tolerance beyond rounding.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from converters.analysis.received import own_copy, pinned_defaults
from converters.analysis.tracing import name_of, trace_of
from converters.densifying.network import DenseNetwork
from converters.densifying.places import Standing
from converters.densifying.plan import Plan
from converters.densifying.subsampling import PlainSplit
from converters.densifying.values import tensors_of
from converters.pooling import SplitPool2d, pinned_offsets
from converters.rewriting.proof import frame_sizes
from engines.errors import NetworkError
from engines.schedules.phases import Size

_TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Relative to the largest value of a map. Float32 is for networks that make tensors of that type themselves."""

_MOST_AT_ONCE = 2**17
"""Pixels of the largest image whose shifts are all computed; of a larger one the first alone."""


@dataclass(frozen=True)
class Checked:
    """What was compared."""

    maps: int
    size: Size
    difference: float
    precision: str


@dataclass(frozen=True)
class Conversion:
    """A strided network and its dense form."""

    network: nn.Module
    """As it was handed over."""
    strided: fx.GraphModule
    """Its trace."""
    dense: DenseNetwork
    written: Mapping[fx.Node, fx.Node]
    """By node of the trace: the dense network's node that stands for it."""
    plan: Plan
    padded: Size


def checked(conversion: Conversion) -> Checked:
    """Compare a dense network with the strided one at phase (0, 0).

    Raises :class:`NetworkError` that names the first layer whose map is another one, or where the trace is another
    function than the network, or where the network cannot be run.
    """
    failure: Exception | None = None
    # What is decided by shapes is decided for frames of one size.
    decided = trace_of(conversion.strided).decided
    sizes = [conversion.padded] if decided else frame_sizes(conversion.dense.size_multiple, conversion.padded)
    for size in sizes:
        for dtype, tolerance in _TOLERANCES.items():
            x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
            try:
                strided = _strided_maps(conversion, x)
            except NetworkError:
                raise
            except Exception as error:  # noqa: BLE001 - the network is the user's code and may raise anything
                failure = error
                continue
            return _compared(conversion, strided, x, tolerance)
    raise NetworkError(
        f"the network fails on an image of {conversion.padded[0]}x{conversion.padded[1]}: {failure}"
    ) from failure


def _compared(conversion: Conversion, strided: Mapping[fx.Node, Any], x: Tensor, tolerance: float) -> Checked:
    size = (x.shape[2], x.shape[3])
    try:
        dense = _dense_maps(conversion, x)
    except Exception as error:
        raise NetworkError(f"the dense network fails on an image of {size[0]}x{size[1]}: {error}") from error
    largest, count = 0.0, 0
    for node, place in conversion.plan.places.items():
        if place.standing is not Standing.SHIFTS or conversion.written.get(node) not in dense:
            continue
        for expected, actual in zip(
            tensors_of(strided[node]), tensors_of(dense[conversion.written[node]]), strict=False
        ):
            difference = _difference(expected, actual)
            if not difference <= tolerance:
                by = "is of another shape" if math.isinf(difference) else f"differs by {difference:.1e} of the largest"
                raise NetworkError(
                    f"made dense, the network would not be the strided one: at phase (0, 0) what {name_of(node)} gives "
                    f"{by}; it looks from one image of a batch at others, or knows where in the map it is"
                )
            largest, count = max(largest, difference), count + 1
    return Checked(count, size, largest, str(x.dtype).removeprefix("torch."))


def _strided_maps(conversion: Conversion, x: Tensor) -> dict[fx.Node, Any]:
    """What every node of the trace gives. Raises :class:`NetworkError` where the trace is not the network."""
    network = own_copy(conversion.network).eval().to("cpu", x.dtype)
    recorder = _Recorder(copy_of(conversion.strided, x.dtype), conversion.strided, {})
    with torch.no_grad(), pinned_defaults():
        expected, actual = network(x.clone()), recorder.run(x.clone())
        if not (isinstance(expected, Tensor) and _difference(expected, actual) <= _TOLERANCES[x.dtype]):
            why = "; ".join(trace_of(conversion.strided).doubts) or "something in its forward leaves no trace"
            raise NetworkError(f"the network differs from its trace: {why}")
        replaced = {
            node: action.strided for node, action in conversion.plan.actions.items() if isinstance(action, PlainSplit)
        }
        if replaced:
            recorder = _Recorder(copy_of(conversion.strided, x.dtype), conversion.strided, replaced)
            recorder.run(x.clone())
    return recorder.values


def _dense_maps(conversion: Conversion, x: Tensor) -> dict[fx.Node, Any]:
    """What every node of the dense network gives, its first split batches first."""
    dense = copy_of(conversion.dense, x.dtype)
    splits = [layer for layer in dense.modules() if isinstance(layer, SplitPool2d)]
    pinned = dict.fromkeys(splits, (0, 0)) if x.shape[2] * x.shape[3] > _MOST_AT_ONCE else {}
    recorder = _Recorder(dense, conversion.dense, {})
    with torch.no_grad(), pinned_defaults(), pinned_offsets(pinned):
        recorder.run(x.clone())
    return recorder.values


def copy_of(graph: fx.GraphModule, dtype: torch.dtype) -> fx.GraphModule:
    """A copy in evaluation mode and another type."""
    return copy.deepcopy(graph).eval().to("cpu", dtype)


class _Recorder(fx.Interpreter):
    """Keeps what every node gives, under the nodes of the graph that was copied.

    Args:
        graph: the copy that is run.
        original: what it is a copy of.
        replaced: functions to compute in the place of layers, by node of the original.
    """

    def __init__(
        self, graph: fx.GraphModule, original: fx.GraphModule, replaced: Mapping[fx.Node, Callable[[Tensor], Tensor]]
    ) -> None:
        super().__init__(graph)
        self.extra_traceback = False
        self.values: dict[fx.Node, Any] = {}
        self._originals = dict(zip(graph.graph.nodes, original.graph.nodes, strict=True))
        self._replaced = replaced

    def run_node(self, n: fx.Node) -> Any:
        original = self._originals[n]
        function = self._replaced.get(original)
        value = super().run_node(n) if function is None else function(self.env[n.all_input_nodes[0]])
        # A copy of what is compared: layers may write into it.
        self.values[original] = value.detach().clone() if isinstance(value, Tensor) else value
        return value


def _difference(expected: Tensor, actual: Tensor) -> float:
    """Of the first entries of a batch, relative to the largest value; infinite for other shapes."""
    first = actual
    if actual.ndim == expected.ndim:
        # Along the axis of the batch, wherever a permutation has put it.
        others = [axis for axis in range(actual.ndim) if actual.shape[axis] != expected.shape[axis]]
        for axis in others[:1]:
            first = first.narrow(axis, 0, min(actual.shape[axis], expected.shape[axis]))
    if first.shape != expected.shape:
        return math.inf
    if not expected.numel() or not expected.is_floating_point():
        return 0.0 if bool((first == expected).all()) else math.inf
    scale = max(float(expected.abs().max()), torch.finfo(expected.dtype).tiny)
    return float((first - expected).abs().max()) / scale
