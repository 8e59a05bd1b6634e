"""What a network gives: logits, one channel a class, and neither labels nor probabilities of its own."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from converters.analysis.tracing import name_of, output_of, trace_of
from engines.bundle.manifest import OutputKind
from engines.errors import NetworkError
from engines.schedules.phases import Size

_SUM = 1e-4
"""How far from one the channels of a softmax may add up to."""


def channels_of(graph: fx.GraphModule, size: Size) -> int:
    """Channels of a network's logits, from a pass without values.

    Args:
        graph: the traced network.
        size: of the padded frame.

    Raises :class:`NetworkError` for a network that does not take it, or gives another shape or type than logits.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            logits = graph(torch.empty(1, 3, *size))
    except Exception as error:
        # The network is the user's code and may raise anything.
        raise NetworkError(f"the network cannot take an image of {size[0]}x{size[1]}: {error}") from error
    if not isinstance(logits, Tensor):
        raise NetworkError(
            f"{name_of(output_of(graph).all_input_nodes[0])}, which ends the network, gives a {type(logits).__name__} "
            "and not one tensor: wrap the network and return the logits alone"
        )
    shape = tuple(logits.shape)
    if len(shape) != 4 or shape[0] != 1 or shape[2:] != size:
        why = "".join(f"; {doubt}" for doubt in trace_of(graph).doubts)
        raise NetworkError(
            f"a network maps (1, 3, {size[0]}, {size[1]}) to logits (1, classes, {size[0]}, {size[1]}); "
            f"this one gives {shape}{why}"
        )
    if logits.dtype is not torch.float32:
        labels = "" if logits.dtype.is_floating_point else "; labels of its own: let it return what it takes them from"
        raise NetworkError(f"a network gives logits in torch.float32, and this one gives {logits.dtype}{labels}")
    return int(shape[1])


def check_channels(channels: int, outputs: OutputKind) -> None:
    """Raise :class:`NetworkError` for one channel where the highest of several is asked for."""
    if channels == 1 and outputs is not OutputKind.LOGITS:
        result = "every label is 0" if outputs is OutputKind.LABELS else "every probability is 1"
        raise NetworkError(
            f"the network's logits have one channel, so {result}; with threshold=0.5 the label is 1 where the sigmoid "
            'is above it, else 0; or choose outputs="logits"'
        )


def check_meaning(logits: Tensor, outputs: OutputKind) -> None:
    """Raise :class:`NetworkError` for a network that ends in a decision or a softmax of its own.

    Args:
        logits: ``(1, classes, H, W)`` of noise.
        outputs: what the bundle is to give.
    """
    if bool((logits == logits.round()).all()) and logits.min() < logits.max():
        raise NetworkError(
            "the network gives whole numbers alone, which are labels of its own and no logits: let it return what it "
            "takes them from"
        )
    if outputs is OutputKind.PROBABILITIES and logits.min() >= 0 and (logits.sum(1) - 1).abs().max() <= _SUM:
        raise NetworkError(
            'the network\'s channels add up to one: it ends in a softmax of its own, and outputs="probabilities" takes '
            'another one. Take it off, or choose outputs="logits", which gives what the network gives'
        )
