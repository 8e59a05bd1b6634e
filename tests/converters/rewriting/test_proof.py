"""The proof finds what no rewrite can see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from converters.analysis.network import traced_network
from converters.pooling import MergePool2d, SplitPool2d
from converters.rewriting.loops import looped_from_network
from converters.rewriting.lowerings import lowered
from converters.rewriting.proof import noise_case, prove_phases
from engines.errors import NetworkError
from engines.schedules.schedule import Lowering


class Between(nn.Module):
    """Something between a split and its merge."""

    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.split, self.what = nn.Conv2d(3, 4, 3, padding=1), SplitPool2d(2), what
        self.merge = MergePool2d(self.split)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.what(self.split(self.conv(x))))


def prove(network: nn.Module) -> None:
    traced = traced_network(network.eval())
    prove_phases(lowered(looped_from_network(traced), Lowering.RESHAPE), noise_case(traced))


@pytest.mark.parametrize(
    "mixing",
    [
        lambda x: x - x.mean(0, keepdim=True),
        lambda x: x.softmax(0),
        lambda x: x / x.abs().max(),
        lambda x: x.flip(0),
        lambda x: x + torch.rand_like(x),
    ],
    ids=["mean", "softmax", "maximum", "flip", "chance"],
)
def test_layers_that_tie_phases_together_are_refused(mixing: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(NetworkError, match=r"differs from the whole by \d"):
        prove(Between(mixing))


def test_hooks_stay_in_effect() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    network[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    prove(network)


@pytest.mark.parametrize("fine", [torch.relu, lambda x: x.softmax(1), lambda x: x + x.mean((2, 3), keepdim=True)])
def test_layers_that_stay_in_their_split_batch_pass(fine: Callable[[Tensor], Tensor]) -> None:
    prove(Between(fine))


def test_a_network_that_gives_no_numbers_is_refused() -> None:
    with pytest.raises(NetworkError, match="not finite"):
        prove(Between(lambda x: x * float("nan")))
