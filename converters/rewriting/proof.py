"""Proof that a rewritten network is still the network, on the network itself.

A rewrite looks at layers, and some things cannot be seen there: a layer that mixes entries of the batch, or a
random choice. So every export computes a small input both ways, the network as it was handed over at once,
and its rewritten form phase by phase, and compares. Before that it compares the network with itself and with its trace,
so that a difference is put down to what makes it (:mod:`converters.rewriting.causes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.in_place import writes_into_a_view
from converters.analysis.network import TracedNetwork
from converters.analysis.received import logits_of, pinned_defaults
from converters.analysis.tracing import name_of, trace_of
from converters.rewriting.causes import mixing_layer
from converters.rewriting.lowerings.base import LoweredNetwork
from engines.errors import NetworkError
from engines.schedules.phases import PhaseGrid, Size

_TOLERANCE = 1e-4
"""Relative to the largest logit: rounding stays far below, a mistake far above."""

_MOST_SUB_BATCHES = 8
"""Taken at equal distances from all: enough to meet every offset of every level."""


@dataclass(frozen=True, eq=False)
class NoiseCase:
    """What the network computes at once, as it was handed over."""

    network: TracedNetwork
    x: Tensor
    """``(1, 3, H, W)`` float32."""
    logits: Tensor
    """``(1, classes, H, W)`` float32."""

    @property
    def size(self) -> Size:
        """Of the noise, ``(H, W)``."""
        return self.x.shape[2], self.x.shape[3]

    @property
    def grown(self) -> bool:
        """Whether the network did not take the least size, or decided otherwise there."""
        return self.size != next(frame_sizes(self.network.size_multiple, self.network.size))


def noise_case(network: TracedNetwork) -> NoiseCase:
    """Noise of the least size that has several positions in every split batch, and the network's logits.

    Where the network fails on it, or decides by shapes otherwise than for the frames that it was traced for, the size
    is doubled until it does not, up to the size of these: kernels without padding and reflected borders need room, and
    stored positions are of one size.

    Raises :class:`NetworkError` when the network fails on all of them, gives no numbers, gives others each time, or
    gives others than its trace.
    """
    for size in frame_sizes(network.size_multiple, network.size):
        x = torch.randn(
            1, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device=torch.device("cpu")
        )
        try:
            if not network.is_the_same_at(size):
                continue
            logits, again = logits_of(network.module, x), logits_of(network.module, x)
            break
        except Exception as error:  # noqa: BLE001 - the network is the user's code and may raise anything
            failure = error
    else:
        raise NetworkError(_failure(x, failure)) from failure
    if not torch.isfinite(logits).all():
        raise NetworkError("the network's logits are not finite on a frame of noise; check the checkpoint")
    case = NoiseCase(network, x, logits)
    if (difference := _relative(logits, again)) > _TOLERANCE:
        raise NetworkError(
            f"the network gives other logits each time it sees the same image, by {difference:.1e} of the largest: it "
            "depends on chance, or on what it computed before"
        )
    _prove_trace(case)
    return case


def frame_sizes(multiple: Size, largest: Size) -> Iterator[Size]:
    """The least size, then twice as much at a time, at most ``largest``, which is the last."""
    size = (2 * multiple[0], 3 * multiple[1])
    yield size
    while size[0] < largest[0] or size[1] < largest[1]:
        size = (min(2 * size[0], largest[0]), min(2 * size[1], largest[1]))
        yield size
    if size != largest:
        yield largest


def _prove_trace(case: NoiseCase) -> None:
    """Compare the trace with the network. Raises :class:`NetworkError` with what a trace does not show."""
    doubts = "; ".join(trace_of(case.network.graph).doubts)
    why = (
        doubts
        or "something in its forward leaves no trace: a context, a Python value that changes, a type that it asks"
    )
    try:
        traced = logits_of(case.network.graph, case.x)
    except Exception as error:
        # So are the layers of the trace.
        raise NetworkError(f"the network's trace fails where it does not, {why}: {error}") from error
    if traced.shape != case.logits.shape:
        raise NetworkError(
            f"the network gives logits of {tuple(case.logits.shape)}, and its trace {tuple(traced.shape)}: {why}"
        )
    if not (difference := _relative(case.logits, traced)) <= _TOLERANCE:
        raise NetworkError(f"the network differs from its trace by {difference:.1e} of its largest logit: {why}")


def prove_phases(form: LoweredNetwork, case: NoiseCase) -> None:
    """Compare a rewritten network, phase by phase, with the whole. Raises :class:`NetworkError` with the difference."""
    size = case.size
    try:
        with torch.inference_mode(), pinned_defaults():
            difference = _largest_difference(form, case, form.looped.grid(size, size))
    except NetworkError:
        raise
    except _LayerFailed as failed:
        raise NetworkError(
            f"computed phase by phase, the network fails on an image of {size[0]}x{size[1]} at {failed.layer}: "
            f"{failed.__cause__}. Split batches are entries of the batch, and any number of them is computed at a "
            "time: no layer may count on how many there are, or look from one to another"
        ) from failed
    relative = difference / _scale(case.logits)
    if not relative <= _TOLERANCE:
        raise NetworkError(
            f"computed phase by phase, the network differs from the whole by {relative:.1e} of its largest logit. "
            f"{_cause(case)}"
        )


def _cause(case: NoiseCase) -> str:
    written = [name_of(node) for node in case.network.graph.graph.nodes if writes_into_a_view(node)]
    if written:
        return f"{', '.join(written)} works in place on a part of a map that is read elsewhere too: let it give it anew"
    layer = mixing_layer(case.network.graph, case.x)
    if layer is None:
        return (
            "No layer mixes entries of the batch, so one of them does not commute with a split as its kind does, or "
            "knows where in the map it is"
        )
    return (
        f"{layer} mixes entries of the batch: split batches are entries of the batch, and no layer may look from one "
        "to another"
    )


def _relative(expected: Tensor, actual: Tensor) -> float:
    return float((expected - actual).abs().max()) / _scale(expected)


def _scale(logits: Tensor) -> float:
    return max(float(logits.abs().max()), torch.finfo(logits.dtype).tiny)


def _failure(x: Tensor, error: Exception) -> str:
    return f"the network fails on an image of {x.shape[2]}x{x.shape[3]}: {error}"


class _LayerFailed(Exception):
    """Why a layer of a rewritten network fails; the cause is what it raised."""

    def __init__(self, layer: str) -> None:
        super().__init__(layer)
        self.layer = layer


class _Named(fx.Interpreter):
    """Runs a graph, and names the layer that fails."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        try:
            return super().run_node(n)
        except Exception as error:
            raise _LayerFailed(name_of(n)) from error


def _largest_difference(form: LoweredNetwork, case: NoiseCase, grid: PhaseGrid) -> float:
    top, left, bottom, right = grid.border
    planes = F.pad(case.x[0], (left, right, top, bottom)).numpy()
    # Several phases at a time where they can go together, so that an order of the batch axis that is wrong is seen;
    # three, so that the last sub-batch is a smaller one.
    together = grid.sub_batches(min(3, grid.largest_sub_batch))
    # And alone: all that there are have a mean over the batch that is the whole's.
    alone = grid.sub_batches(1) if grid.largest_sub_batch > 1 else []
    differences = []
    for phases in [*together[:: -(-len(together) // _MOST_SUB_BATCHES)], together[-1], *alone[:1], *alone[-1:]]:
        # Copies: a layer may write into what it is given.
        logits = _Named(form.graph).run(*(torch.tensor(array) for array in grid.feed(planes, phases).values()))
        for merge in form.merges:
            logits = merge(logits)
        expected = torch.stack(
            [case.logits[0, :, row :: grid.window[0], column :: grid.window[1]] for row, column in phases]
        )
        if logits.shape != expected.shape:
            raise NetworkError(f"phases of {tuple(expected.shape)} logits came out as {tuple(logits.shape)}")
        differences.append(float((logits - expected).abs().max()))
    return max(differences)
