"""Levels: what is understood, and what is refused with the layer's name."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from converters.analysis.levels import levels_from_graph
from converters.analysis.tracing import graph_from_network
from converters.pooling import MergePool2d, SplitPool2d, merge
from engines.errors import NetworkError
from tests.networks import Asserting, UnevenNetwork


class Chain(nn.Sequential):
    """Layers one after the other."""


def test_windows_in_the_order_of_their_levels() -> None:
    levels = levels_from_graph(graph_from_network(UnevenNetwork()))
    assert levels.windows == ((3, 2), (2, 2), (1, 4))
    assert levels.size_multiple == (6, 16)


def test_sections_one_after_the_other_need_the_least_common_multiple() -> None:
    first, second = SplitPool2d((2, 3)), SplitPool2d((3, 2))
    network = Chain(first, nn.Conv2d(3, 3, 1), MergePool2d(first), second, MergePool2d(second))
    levels = levels_from_graph(graph_from_network(network))
    assert levels.windows == ((2, 3),)
    assert levels.size_multiple == (6, 6)


def test_an_unmerged_network_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"output is not merged: it is split by 2x2, 1x3"):
        levels_from_graph(graph_from_network(Chain(SplitPool2d(2), SplitPool2d((1, 3)))))


def test_a_merge_of_another_window_is_refused_by_name() -> None:
    network = Chain(SplitPool2d(2), MergePool2d(SplitPool2d(3)))
    with pytest.raises(NetworkError, match=r"^1 \(_1\) merges a window of 3x3, but what comes in is split by 2x2"):
        levels_from_graph(graph_from_network(network))


def test_a_merge_without_a_split_is_refused() -> None:
    class Merges(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return merge(x, (2, 2))

    with pytest.raises(NetworkError, match="not split"):
        levels_from_graph(graph_from_network(Merges()))


def test_branches_of_different_levels_are_refused_by_name() -> None:
    class Ragged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.split = SplitPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.split(x), x])

    with pytest.raises(NetworkError, match=r"different levels meet at cat: not split and split by 2x2"):
        levels_from_graph(graph_from_network(Ragged()))


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (
            lambda x: x if x.sum() > 0 else -x,
            "it decides by the values of a tensor; a network must be free of such contr",
        ),
        (lambda x: x * int(x.max()), r"it makes a Python number of the values of a tensor \(int\)"),
        (lambda x: x * x.nonzero().shape[0], "the shape of nonzero depends on the values of a tensor"),
        (lambda x: sum(row for row in x), "it makes a Python number of how many images there are"),
        (lambda x: x.view(len(x), -1), "it makes a Python number of how many images there are"),
        (lambda x: torch.cat([x[i] for i in range(x.shape[0])]), "it makes a Python number of how many images there a"),
        (lambda x: x.view(int(x.shape[0]), -1), "it makes a Python number of how many images there are"),
        (
            lambda x: x.__setitem__(0, 1),
            r"it writes into a part of a tensor, x\[...\] = ...: use torch.cat or torch.wh",
        ),
        (lambda x: x * x.max().item(), r"it takes the values of a tensor out of it \(item\)"),
    ],
)
def test_what_cannot_be_followed_is_told_apart(forward: Callable[[Tensor], Tensor], reason: str) -> None:
    class Choosing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return forward(x)

    with pytest.raises(NetworkError, match=rf"^Choosing cannot be traced: {reason}") as raised:
        graph_from_network(Choosing())
    assert re.search(r"\(line \d+ of test_levels.py, in <(lambda|listcomp)>\)$", str(raised.value))


def test_what_a_network_asserts_ends_no_trace() -> None:
    graph = graph_from_network(Asserting().eval())
    assert [node.op for node in graph.graph.nodes] == ["placeholder", "call_module", "call_module", "output"]


def test_several_inputs_or_outputs_are_refused() -> None:
    class TwoInputs(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    class TwoOutputs(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    with pytest.raises(NetworkError, match=r"takes 2 inputs \(x, y\)"):
        graph_from_network(TwoInputs())
    with pytest.raises(NetworkError, match="TwoOutputs must return one tensor, not a collection: wrap it"):
        graph_from_network(TwoOutputs())

    class Named(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": x, "aux": x}

    with pytest.raises(NetworkError, match="Named must return one tensor, not a dict of 'out', 'aux': wrap it"):
        graph_from_network(Named())


def test_tracing_leaves_the_network_as_it_was() -> None:
    network = UnevenNetwork().train()
    graph_from_network(network)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
