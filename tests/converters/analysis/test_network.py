"""A traced network as one value: what is found, and how it is carried over to a copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from converters.analysis.network import traced_network
from converters.networks import SMP, network_from_arch
from converters.pooling import MergePool2d, SplitPool2d, merge, split
from engines.errors import NetworkError
from tests.networks import UnevenNetwork, with_statistics


def test_what_is_known_of_smp18() -> None:
    network = network_from_arch("smp-resnet18", width=4)
    assert isinstance(network, SMP)
    traced = traced_network(network)
    assert traced.module is network
    assert traced.windows == ((2, 2),) * 5
    assert (traced.cut_levels, traced.most_levels, traced.size_multiple) == (2, 5, (32, 32))
    assert str(traced.prefix.conv.target) == "conv1"  # type: ignore[union-attr]
    assert (traced.prefix.windows, traced.prefix.border) == (((2, 2), (2, 2)), (3, 3, 3, 3))
    # The head is a 1x1 convolution: it commutes with the merges.
    tail = [str(node.target) for node in traced.tail]
    assert tail[-6:] == ["head", *(f"merges.{index}" for index in range(5))]
    assert traced.held_levels == {}
    assert [set(layers) for layers in traced.split_layers] == [{layer} for layer in network.splits]
    assert not any("bn" in path for path in traced.modules)
    assert {"conv1", "layer4.1.conv2", "head"} <= set(traced.modules)


def test_a_network_that_is_to_be_trained_keeps_its_own_layers() -> None:
    network = network_from_arch("smp-resnet18", width=4)
    traced = traced_network(network, shared=True)
    assert "layer4.1.bn2" in traced.modules
    assert all(traced.graph.get_submodule(path) is network.get_submodule(path) for path in traced.modules)
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert (network.training, traced.cut_levels, traced.most_levels) == (True, 2, 5)


def test_producers_are_what_may_come_after_a_split() -> None:
    traced = traced_network(with_statistics(UnevenNetwork, seed=0), shared=True)
    found = [(str(node.target), str(producer.target)) for node, producer in traced.levels.producers.items()]
    # A ReLU commutes with a split; the sum before it has two inputs. What splits before the shortcut is used twice.
    assert found == [("split1", "stem"), ("split2", "depthwise"), ("split2", "shortcut"), ("split3", "relu")]


def test_a_copy_may_be_changed_and_what_is_known_is_carried_over() -> None:
    traced = traced_network(with_statistics(UnevenNetwork, seed=0))
    graph, nodes = traced.copied()
    moved = traced.levels.moved(nodes)
    assert [node.name for node in moved.splits] == [node.name for node in traced.levels.splits]
    assert set(moved.stacks) == set(graph.graph.nodes)
    assert set(moved.stacks).isdisjoint(traced.graph.graph.nodes)
    with torch.no_grad():
        graph.get_submodule("stem").weight.zero_()  # type: ignore[operator,union-attr]
    assert traced.graph.get_submodule("stem").weight.abs().sum() > 0  # type: ignore[operator,union-attr,arg-type]


class Named(nn.Module):
    """A convolution, and before it a parameter, under names that need not be identifiers."""

    def __init__(self, layer: str, factor: str = "factor") -> None:
        super().__init__()
        self.layer, self.factor = layer, factor
        self.body = nn.ModuleDict({layer: nn.Conv2d(3, 2, 1)})
        self.body.register_parameter(factor, nn.Parameter(torch.tensor(2.0)))

    def forward(self, x: Tensor) -> Tensor:
        return self.body[self.layer](x * getattr(self.body, self.factor))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "class", "None", "\ufb01"])
def test_a_name_that_no_code_can_say_is_one_clear_error(name: str) -> None:
    for network, path in ((Named(name), f"body.{name}"), (Named("layer", name), f"body.{name}")):
        for shared in (False, True):
            with pytest.raises(NetworkError) as raised:
                traced_network(network, shared=shared)
            assert str(raised.value).startswith(f"Named has a module or parameter {path!r}, which torch.fx cannot ")


@pytest.mark.parametrize("name", ["a b", "a'b", "ü", "7", "a/b", "a{b}", "self"])
def test_a_name_that_is_no_identifier_may_be_traced(name: str) -> None:
    network, x = Named(name, f"{name}*"), torch.randn(1, 3, 4, 4)
    traced = traced_network(network)
    assert traced.modules == (f"body.{name}",)
    with torch.no_grad():
        assert torch.equal(traced.graph(x), network(x))


class Pooled(nn.Module):
    """Two levels, the first split and merged by ``first``, the second by layers."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.outer, self.inner = SplitPool2d(2), SplitPool2d((1, 2))
        self.kind = kind
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        other = SplitPool2d(2) if kind == "a merge of another split" else self.outer
        self.merge_inner, self.merge_outer = MergePool2d(self.inner), MergePool2d(other)

    def forward(self, x: Tensor) -> Tensor:
        x = split(x, (2, 2)) if self.kind == "functional split" else self.outer(x)
        x = self.merge_inner(self.conv(self.inner(self.conv(x))))
        return merge(x, (2, 2)) if self.kind == "functional merge" else self.merge_outer(x)


@pytest.mark.parametrize(
    ("kind", "levels"),
    [("layers", 2), ("functional split", 0), ("functional merge", 0), ("a merge of another split", 0)],
)
def test_levels_that_can_be_pinned(kind: str, levels: int) -> None:
    assert len(traced_network(Pooled(kind)).split_layers) == levels
