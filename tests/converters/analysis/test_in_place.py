"""Layers that write into their input, against the network itself: in every form, and with the input left as it is."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.network import traced_network
from converters.analysis.received import logits_of
from converters.analysis.tracing import graph_from_network
from converters.pooling import MergePool2d, SplitPool2d
from converters.rewriting.loops import looped_from_network
from converters.rewriting.lowerings import lowered
from converters.rewriting.proof import noise_case, prove_phases
from engines.schedules.schedule import Lowering

SIZE = (8, 12)


class Twice(nn.Module):
    """A map that is split twice: as it is, and after a function that may write into it."""

    def __init__(self, what: Callable[[Tensor], Tensor] | nn.Module, before: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.before, self.what = nn.Conv2d(3, 4, 3, padding=1), before or nn.Identity(), what
        self.split, self.body = SplitPool2d(2), nn.Conv2d(4, 4, 3, padding=1)
        self.merge = MergePool2d(self.split)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = self.split(self.what(self.before(x)))
        return self.merge(self.body(y) + self.split(x))


def added(x: Tensor) -> Tensor:
    x += 1
    return x


def shifted_by_its_size(x: Tensor) -> Tensor:
    """Numbers are not written into: the height is what it was."""
    height = size = x.shape[2]
    size += 1
    return x * height + size


WRITING: dict[str, Callable[[Tensor], Tensor] | nn.Module] = {
    "layer": nn.ReLU(inplace=True),
    "method": lambda x: x.relu_(),
    "method without another form": lambda x: x.zero_(),
    "function": F.relu_,
    "function that is asked to": lambda x: F.leaky_relu(x, 0.3, inplace=True),
    "function that is asked to by position": lambda x: F.relu(x, True),
    "operator": added,
    "chain": lambda x: x.mul_(2).add_(1).sigmoid_(),
    "first channels": lambda x: x[:, :2].mul_(3).repeat(1, 2, 1, 1),
    "half": lambda x: F.relu(x.chunk(2, 1)[0], inplace=True).repeat(1, 2, 1, 1),
    "numbers": shifted_by_its_size,
}


@pytest.mark.parametrize("before", [None, nn.Dropout(0.5)], ids=["at once", "through a layer that does nothing"])
@pytest.mark.parametrize("name", list(WRITING))
def test_every_form_is_the_network(name: str, before: nn.Module | None) -> None:
    network = traced_network(Twice(WRITING[name], before).eval(), SIZE)
    case = noise_case(network)
    for levels in range(network.most_levels + 1):
        for lowering in Lowering:
            prove_phases(lowered(looped_from_network(network, levels), lowering), case)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("method", "relu"),
        ("function", F.relu),
        ("operator", operator.add),
        ("chain", "sigmoid"),
    ],
)
def test_what_is_written_is_given_anew(name: str, target: object) -> None:
    graph = graph_from_network(Twice(WRITING[name]).eval())
    assert target in [node.target for node in graph.graph.nodes]
    first, second = (node for node in graph.graph.nodes if node.target == "split")
    # The second split reads what was written, along an edge.
    assert first.args == second.args


def test_an_input_that_is_changed_stays_the_callers() -> None:
    class Centred(Twice):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5))

    network = Centred(torch.relu).eval()
    x = torch.randn(1, 3, *SIZE)
    before = x.clone()
    expected = logits_of(network, x)
    assert torch.equal(x, before)
    with torch.no_grad():
        assert torch.equal(network(before.clone()), expected)
        # The trace does not change it either.
        traced = traced_network(network, SIZE)
        torch.testing.assert_close(traced.graph(x), expected)
    assert torch.equal(x, before)
    prove_phases(lowered(looped_from_network(traced, 1), Lowering.RESHAPE), noise_case(traced))


def test_a_network_that_is_trained_keeps_its_layers_in_place() -> None:
    network = Twice(nn.ReLU(inplace=True)).train()
    traced = traced_network(network, shared=True)
    assert network.what.inplace is True  # type: ignore[union-attr]
    x = torch.randn(1, 3, *SIZE)
    torch.manual_seed(1)
    expected = network(x)
    torch.manual_seed(1)
    assert torch.equal(traced.graph(x), expected)
