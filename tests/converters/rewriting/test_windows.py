"""Windows: phases computed one by one equal the whole network, for known and for random networks."""

import numpy as np
import pytest
import torch
from torch import nn

from converters.networks import network_from_arch
from converters.pooling import MergePool2d, SplitPool2d, merge
from converters.rewriting.batchnorm import fold_batch_norms
from converters.rewriting.levels import levels_from_graph
from converters.rewriting.tracing import graph_from_network
from converters.rewriting.windows import WindowedNetwork, windows_from_graph
from engines.phases import PhaseGrid
from tests.networks import RandomNetwork, UnevenNetwork, with_statistics


def phase_by_phase(windowed: WindowedNetwork, x: torch.Tensor) -> torch.Tensor:
    """Every phase from its own window, inner merges in PyTorch, placed by plain strided slicing."""
    size = (x.shape[2], x.shape[3])
    grid = PhaseGrid(size, size, windowed.window, windowed.border)
    top, left, bottom, right = windowed.border
    planes = nn.functional.pad(x[0], (left, right, top, bottom)).numpy()
    result = None
    for row, column in grid.phases:
        logits = windowed.graph(torch.from_numpy(grid.cut(planes, [(row, column)])))
        for window in windowed.inner_merges:
            logits = merge(logits, window)
        if result is None:
            result = torch.full((1, logits.shape[1], *size), float("nan"))
        result[0, :, row :: windowed.window[0], column :: windowed.window[1]] = logits[0]
    assert result is not None
    return result


def assert_equal_to_whole(network: nn.Module, size: tuple[int, int]) -> WindowedNetwork:
    graph = graph_from_network(network)
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = network(x)
        fold_batch_norms(graph)
        windowed = windows_from_graph(graph)
        actual = phase_by_phase(windowed, x)
    error = float((actual - expected).abs().max() / expected.abs().max())
    assert error < 1e-5
    return windowed


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
    windowed = assert_equal_to_whole(with_statistics(lambda: network_from_arch(arch, width=4), seed=1), (64, 96))
    assert (windowed.levels, windowed.window, windowed.border) == (levels, window, border)


def test_uneven_windows() -> None:
    windowed = assert_equal_to_whole(with_statistics(UnevenNetwork, seed=2), (24, 48))
    # After the first split comes a depthwise convolution, a second one with a kernel: the loop walks one level.
    assert (windowed.levels, windowed.window, windowed.border) == (1, (3, 2), (2, 1, 2, 1))
    assert windowed.inner_merges == [(1, 4), (2, 2)]


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(seed: int) -> None:
    network = with_statistics(lambda: RandomNetwork(seed), seed)
    height, width = levels_from_graph(graph_from_network(network)).size_multiple
    assert_equal_to_whole(network, (height * 4, width * 3))


def test_random_networks_reach_several_levels() -> None:
    reached = {windows_from_graph(graph_from_network(RandomNetwork(seed).eval())).levels for seed in range(60)}
    assert reached == {0, 1, 2, 3}


def chain(*layers: nn.Module) -> nn.Module:
    return with_statistics(lambda: nn.Sequential(*layers), seed=4)


def test_a_split_before_the_convolution_becomes_dilation() -> None:
    outer, inner = SplitPool2d((2, 3)), SplitPool2d((3, 1))
    network = chain(
        outer, nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), inner, nn.Conv2d(4, 4, 3, padding=1),
        MergePool2d(inner), MergePool2d(outer),
    )  # fmt: skip
    windowed = assert_equal_to_whole(network, (18, 12))
    assert (windowed.levels, windowed.window, windowed.border) == (2, (6, 3), (2, 3, 2, 3))


def test_splits_without_a_convolution_are_sampled() -> None:
    outer = SplitPool2d((2, 2))
    windowed = assert_equal_to_whole(chain(outer, MergePool2d(outer), nn.Conv2d(3, 4, 1)), (8, 8))
    assert (windowed.levels, windowed.border) == (1, (0, 0, 0, 0))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_an_even_kernel_with_same_padding_has_an_uneven_border() -> None:
    split = SplitPool2d(2)
    windowed = assert_equal_to_whole(chain(nn.Conv2d(3, 4, (4, 2), padding="same"), split, MergePool2d(split)), (8, 8))
    assert windowed.border == (1, 0, 2, 1)


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
    windowed = assert_equal_to_whole(chain(first, split, MergePool2d(split)), (8, 8))
    assert windowed.levels == 0


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
    assert windows_from_graph(graph_from_network(network)).levels == 0


def test_phases_tied_together_before_the_end_stay_in_the_trunk() -> None:
    first, second = SplitPool2d(2), SplitPool2d(2)
    network = chain(
        nn.Conv2d(3, 4, 3, padding=1), first, nn.Conv2d(4, 4, 3, padding=1), MergePool2d(first),
        nn.Conv2d(4, 4, 3, padding=1), second, MergePool2d(second),
    )  # fmt: skip
    assert assert_equal_to_whole(network, (8, 8)).levels == 0


def test_pointwise_layers_after_merges_move_before_them() -> None:
    outer, inner = SplitPool2d(2), SplitPool2d((1, 2))
    network = chain(
        nn.Conv2d(3, 4, 3, padding=1), outer, nn.Conv2d(4, 4, 3, padding=1), inner, nn.Conv2d(4, 4, 3, padding=1),
        MergePool2d(inner), nn.Conv2d(4, 2, 1), MergePool2d(outer), nn.Sigmoid(), nn.Softmax(dim=1),
    )  # fmt: skip
    windowed = assert_equal_to_whole(network, (8, 8))
    assert (windowed.levels, windowed.inner_merges) == (1, [(1, 2)])


def test_the_graph_handed_over_is_left_alone() -> None:
    network = with_statistics(lambda: network_from_arch("smp-resnet18", width=4), seed=1)
    graph = graph_from_network(network)
    windows_from_graph(graph)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(graph(x), network(x), rtol=0, atol=1e-6 * float(network(x).abs().max()))
