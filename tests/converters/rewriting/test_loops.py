"""Loops over phases equal the whole network: all levels, all lowerings, for known and for random networks."""

import numpy as np
import pytest
import torch
from torch import nn

from converters.analysis.modules import original_module
from converters.analysis.network import traced_network
from converters.networks import network_from_arch
from converters.pooling import MergePool2d, SplitPool2d
from converters.rewriting.loops import LoopedNetwork, looped_from_network
from converters.rewriting.lowerings import lowered
from converters.rewriting.lowerings.base import LoweredNetwork
from engines.errors import NetworkError
from engines.schedules.schedule import Lowering
from tests.networks import RandomNetwork, UnevenNetwork, with_statistics


def phase_by_phase(form: LoweredNetwork, x: torch.Tensor, sub_batch: int) -> torch.Tensor:
    """Sub-batches of windows, merges in PyTorch, placed by plain strided slicing."""
    size = (x.shape[2], x.shape[3])
    grid = form.looped.grid(size, size)
    top, left, bottom, right = form.looped.border
    planes = nn.functional.pad(x[0], (left, right, top, bottom)).numpy()
    result = None
    for phases in grid.sub_batches(sub_batch):
        inputs = [torch.from_numpy(grid.cut(planes, phases))]
        if grid.inner_windows:
            inputs.append(torch.from_numpy(grid.inner_offsets(phases)))
        logits = form.graph(*inputs)
        for merge in form.merges:
            logits = merge(logits)
        if result is None:
            result = torch.full((1, logits.shape[1], *size), float("nan"))
        for index, (row, column) in enumerate(phases):
            result[0, :, row :: grid.window[0], column :: grid.window[1]] = logits[index]
    assert result is not None
    return result


def assert_equal_to_whole(
    network: nn.Module, size: tuple[int, int], *, levels: int | None = None, sub_batch: int = 1
) -> LoopedNetwork:
    """Every lowering of a loop over ``levels``, folded batch norms included, against the network itself."""
    x = torch.randn(1, 3, *size)
    looped = looped_from_network(traced_network(network), levels)
    with torch.no_grad():
        expected = network(x)
        for lowering in Lowering:
            actual = phase_by_phase(lowered(looped, lowering), x, sub_batch)
            assert float((actual - expected).abs().max() / expected.abs().max()) < 1e-5
    return looped


@pytest.mark.parametrize(
    ("arch", "levels", "window", "border"),
    [
        ("smp-resnet18", 2, (4, 4), (3, 3, 3, 3)),
        ("smp-resnet50", 2, (4, 4), (3, 3, 3, 3)),
        ("fcn32s-resnet18", 0, (1, 1), (0, 0, 0, 0)),
        ("fcn8s-resnet18", 0, (1, 1), (0, 0, 0, 0)),
    ],
)
def test_known_networks(arch: str, levels: int, window: tuple[int, int], border: tuple[int, int, int, int]) -> None:
    looped = assert_equal_to_whole(with_statistics(lambda: network_from_arch(arch, width=4), seed=1), (64, 96))
    assert (looped.levels, looped.cut_window, looped.border) == (levels, window, border)


def test_uneven_windows() -> None:
    looped = assert_equal_to_whole(with_statistics(UnevenNetwork, seed=2), (24, 48))
    # After the first split comes a depthwise convolution, a second one with a kernel: the loop walks one level.
    assert (looped.levels, looped.cut_window, looped.border) == (1, (3, 2), (2, 1, 2, 1))
    assert looped.merges == ((1, 4), (2, 2))


@pytest.mark.parametrize("arch", ["smp-resnet18", "smp-resnet50"])
@pytest.mark.parametrize("levels", range(6))
def test_every_number_of_levels(arch: str, levels: int) -> None:
    network = with_statistics(lambda: network_from_arch(arch, width=4), seed=1)
    looped = assert_equal_to_whole(network, (32, 64), levels=levels, sub_batch=5)
    assert looped.cut_window == (2 ** min(levels, 2),) * 2
    assert looped.inner_windows == ((2, 2),) * max(levels - 2, 0)
    assert looped.merges == ((2, 2),) * (5 - levels)


@pytest.mark.parametrize("seed", range(50))
def test_every_schedule_of_random_networks(seed: int) -> None:
    network = with_statistics(lambda: RandomNetwork(seed), seed)
    traced = traced_network(network)
    height, width = traced.size_multiple
    for levels in range(traced.most_levels + 1):
        assert_equal_to_whole(network, (height * 4, width * 3), levels=levels, sub_batch=1 + seed % 3)


def test_random_networks_reach_several_levels_cut_and_inside() -> None:
    networks = [traced_network(RandomNetwork(seed).eval()) for seed in range(50)]
    assert {network.cut_levels for network in networks} == {0, 1, 2, 3}
    assert {network.most_levels - network.cut_levels for network in networks} >= {0, 1, 2}


def test_levels_that_are_not_there_are_refused() -> None:
    network = traced_network(network_from_arch("smp-resnet18", width=4).eval())
    with pytest.raises(NetworkError, match="has 5 levels of splits; 6 cannot be walked"):
        looped_from_network(network, 6)


def test_what_cannot_be_dilated_is_named() -> None:
    split = SplitPool2d(2)
    network = chain(nn.Conv2d(3, 4, 3, padding=1), split, nn.AvgPool2d(3, 1, 1), MergePool2d(split))
    looped = looped_from_network(traced_network(network), 0)
    with pytest.raises(NetworkError, match=r"2 \(_2\) cannot be dilated: .* convolutions of stride 1"):
        lowered(looped, Lowering.DILATED)


def chain(*layers: nn.Module) -> nn.Module:
    return with_statistics(lambda: nn.Sequential(*layers), seed=4)


def test_a_split_before_the_convolution_becomes_dilation() -> None:
    outer, inner = SplitPool2d((2, 3)), SplitPool2d((3, 1))
    network = chain(
        outer, nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), inner, nn.Conv2d(4, 4, 3, padding=1),
        MergePool2d(inner), MergePool2d(outer),
    )  # fmt: skip
    looped = assert_equal_to_whole(network, (18, 12))
    assert (looped.levels, looped.cut_window, looped.border) == (2, (6, 3), (2, 3, 2, 3))


def test_splits_without_a_convolution_are_sampled() -> None:
    outer = SplitPool2d((2, 2))
    looped = assert_equal_to_whole(chain(outer, MergePool2d(outer), nn.Conv2d(3, 4, 1)), (8, 8))
    assert (looped.levels, looped.border) == (1, (0, 0, 0, 0))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_an_even_kernel_with_same_padding_has_an_uneven_border() -> None:
    split = SplitPool2d(2)
    looped = assert_equal_to_whole(chain(nn.Conv2d(3, 4, (4, 2), padding="same"), split, MergePool2d(split)), (8, 8))
    assert looped.border == (1, 0, 2, 1)


@pytest.mark.parametrize(
    "first",
    [
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)),
        nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1)),
        nn.AvgPool2d(3, stride=1, padding=1),
    ],
    ids=["reflected border", "two convolutions", "pointwise before the border", "no convolution"],
)
def test_what_windows_cannot_stand_for_stays_in_the_trunk(first: nn.Module) -> None:
    split = SplitPool2d(2)
    looped = assert_equal_to_whole(chain(first, split, MergePool2d(split)), (8, 8))
    assert looped.levels == 0


def test_a_convolution_that_is_used_again_is_left_alone() -> None:
    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.split, self.conv = SplitPool2d(2), nn.Conv2d(3, 3, 3, padding=1)
            self.merge = MergePool2d(self.split)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.merge(self.conv(self.split(self.conv(x))))

    assert assert_equal_to_whole(with_statistics(Sharing, seed=0), (8, 8)).levels == 0


def test_a_norm_without_statistics_is_not_pointwise() -> None:
    split = SplitPool2d(2)
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm, split, nn.Conv2d(4, 2, 1), MergePool2d(split)).eval()
    assert looped_from_network(traced_network(network)).levels == 0


def test_phases_that_meet_before_the_end_are_named() -> None:
    first, second = SplitPool2d(2), SplitPool2d(2)
    network = chain(
        nn.Conv2d(3, 4, 3, padding=1), first, nn.Conv2d(4, 4, 3, padding=1), MergePool2d(first),
        nn.Conv2d(4, 4, 3, padding=1), second, MergePool2d(second),
    )  # fmt: skip
    assert assert_equal_to_whole(network, (8, 8)).levels == 0
    with pytest.raises(NetworkError, match=r"3 \(_3\) merges level 1 before the end of the network"):
        looped_from_network(traced_network(network), 1)


def test_a_merge_inside_a_deeper_level_is_walked_around() -> None:
    outer, inner = SplitPool2d(2), SplitPool2d((1, 2))
    network = chain(
        nn.Conv2d(3, 4, 3, padding=1), outer, nn.Conv2d(4, 4, 3, padding=1), inner, nn.Conv2d(4, 4, 3, padding=1),
        MergePool2d(inner), nn.Conv2d(4, 2, 3, padding=1), MergePool2d(outer),
    )  # fmt: skip
    assert traced_network(network).most_levels == 1
    for levels in (0, 1):
        assert_equal_to_whole(network, (8, 8), levels=levels, sub_batch=3)


def test_pointwise_layers_after_merges_move_before_them() -> None:
    outer, inner = SplitPool2d(2), SplitPool2d((1, 2))
    network = chain(
        nn.Conv2d(3, 4, 3, padding=1), outer, nn.Conv2d(4, 4, 3, padding=1), inner, nn.Conv2d(4, 4, 3, padding=1),
        MergePool2d(inner), nn.Conv2d(4, 2, 1), MergePool2d(outer), nn.Sigmoid(), nn.Softmax(dim=1),
    )  # fmt: skip
    looped = assert_equal_to_whole(network, (8, 8))
    assert (looped.levels, looped.merges) == (1, ((1, 2),))


@pytest.mark.parametrize("lowering", list(Lowering))
def test_what_is_handed_over_is_left_alone(lowering: Lowering) -> None:
    network = with_statistics(lambda: network_from_arch("smp-resnet18", width=4), seed=1)
    traced = traced_network(network)
    code, looped = traced.graph.code, looped_from_network(traced)
    lowered(looped, lowering)
    lowered(looped_from_network(traced, 4), lowering)
    assert traced.graph.code == code
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = network(x)
        np.testing.assert_allclose(traced.graph(x), expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
        # The loop's form can still be lowered in every way.
        again = phase_by_phase(lowered(looped, Lowering.RESHAPE), x, 1)
        np.testing.assert_allclose(again, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


class TwoLevels(nn.Module):
    """One convolution, called before the split, after it, and after a second one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.outer, self.inner = nn.Conv2d(3, 3, 3, padding=1), SplitPool2d(2), SplitPool2d((1, 2))
        self.merges = nn.Sequential(MergePool2d(self.inner), MergePool2d(self.outer))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.outer(self.conv(x)).relu()
        return self.merges(self.conv(self.inner(self.conv(x))))


def test_copies_of_a_layer_know_what_they_are_copies_of() -> None:
    network = with_statistics(TwoLevels, seed=0)
    assert_equal_to_whole(network, (8, 8))
    graph = lowered(looped_from_network(traced_network(network)), Lowering.DILATED).graph
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert len(set(called)) == 3
    assert [original_module(graph, path) for path in called] == ["conv"] * 3


def test_a_copy_takes_no_name_of_the_networks_own() -> None:
    class Named(TwoLevels):
        def __init__(self) -> None:
            super().__init__()
            self.conv_dilated_2x2 = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.conv_dilated_2x2(x))

    network = with_statistics(Named, seed=0)
    assert_equal_to_whole(network, (8, 8))
    graph = lowered(looped_from_network(traced_network(network)), Lowering.DILATED).graph
    assert original_module(graph, "conv_dilated_2x2") == "conv_dilated_2x2"
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert [original_module(graph, path) for path in called] == ["conv_dilated_2x2", *["conv"] * 3]


@pytest.mark.parametrize("kind", ["parameter", "buffer"])
def test_a_copy_takes_no_name_of_a_parameter_or_buffer(kind: str) -> None:
    class Scaled(TwoLevels):
        def __init__(self) -> None:
            super().__init__()
            scale = torch.tensor([[[0.5]], [[1.0]], [[2.0]]])
            if kind == "parameter":
                self.conv_dilated_2x2 = nn.Parameter(scale)
            else:
                self.register_buffer("conv_dilated_2x2", scale)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x * self.conv_dilated_2x2)

    network = with_statistics(Scaled, seed=0)
    assert_equal_to_whole(network, (8, 8))
    graph = lowered(looped_from_network(traced_network(network)), Lowering.DILATED).graph
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_module"]
    assert called == ["conv", "conv_dilated_2x2_", "conv_dilated_2x4"]
    assert [original_module(graph, path) for path in called] == ["conv"] * 3


def test_rewrites_carry_on_what_is_known() -> None:
    """Windows of the levels that are walked are gone, deeper layers have the others on their stack."""
    network = with_statistics(lambda: network_from_arch("smp-resnet18", width=4), seed=1)
    looped = looped_from_network(traced_network(network), 3)
    nodes = set(looped.graph.graph.nodes)
    inside = looped.inside
    assert nodes >= {*inside.stacks, *inside.splits, *inside.merges, *inside.producers.values()}
    assert [str(node.target) for node in inside.splits] == ["layer3.0.split"] * 2 + ["layer4.0.split"] * 2
    by_target = {str(node.target): stack for node, stack in inside.stacks.items()}
    assert by_target["layer2.1.conv2"] == ()
    assert by_target["layer3.1.conv2"] == ((2, 2),)
    assert by_target["head"] == ((2, 2), (2, 2))
