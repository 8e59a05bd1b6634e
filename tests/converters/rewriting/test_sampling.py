"""Sampled networks equal the network itself at the sampled elements: logits, gradients and statistics."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from converters.analysis.network import traced_network
from converters.networks import SMP, network_from_arch
from converters.pooling import MergePool2d, SplitPool2d, nested_phase, pinned_offsets
from converters.rewriting.sampling import SampledNetwork, sampled_from_network
from engines.errors import LayoutError, NetworkError
from tests.networks import RandomNetwork, UnevenNetwork, with_statistics


def sampled(network: nn.Module, levels: int | None = None) -> SampledNetwork:
    return sampled_from_network(traced_network(network, shared=True), levels)


def drawn(form: SampledNetwork) -> list[tuple[int, int]]:
    return [(int(torch.randint(h, ())), int(torch.randint(w, ()))) for h, w in form.windows]


def at_offsets(full: Tensor, form: SampledNetwork, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """A full-resolution map at the sampled elements, by plain slicing."""
    (h, w), (row, column) = nested_phase(list(form.windows), list(offsets))
    parts = [full[..., row::h, column::w]]
    for h, w in form.dense_windows:
        parts = [part[..., r::h, c::w] for part in parts for r in range(h) for c in range(w)]
    return torch.stack(parts, dim=1).flatten(0, 1)


def assert_same_step(network: nn.Module, form: SampledNetwork, expected: Tensor, received: Tensor) -> None:
    """Logits, and the gradients of every parameter for the same loss, whose weights are drawn."""
    torch.testing.assert_close(received, expected, rtol=0, atol=1e-10)
    towards = torch.randn_like(expected)
    gradients = []
    for logits in (expected, received):
        network.zero_grad()
        (logits * towards).sum().backward()
        gradients.append({name: parameter.grad for name, parameter in network.named_parameters()})
    for name, gradient in gradients[0].items():
        if gradient is not None:
            scale = float(gradient.abs().max().clamp(min=1))
            torch.testing.assert_close(gradients[1][name] / scale, gradient / scale, rtol=0, atol=1e-10, msg=name)


def assert_equal_to_pinned(network: nn.Module, size: tuple[int, int], levels: int) -> None:
    """Against the network itself, whose own splits of the first levels are pinned."""
    form = sampled(network.double(), levels)
    offsets = drawn(form)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    layers = traced_network(network).split_layers[:levels]
    assert len(layers) == levels
    pinned = {layer: offset for level, offset in zip(layers, offsets, strict=True) for layer in level}
    with pinned_offsets(pinned):
        full = network(x)
    assert_same_step(network, form, at_offsets(full, form, offsets), form.logits(x, offsets))


@pytest.mark.parametrize("levels", range(6))
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_known_networks(backbone: str, levels: int) -> None:
    network = with_statistics(lambda: network_from_arch(f"smp-{backbone}", classes=3, width=4), seed=levels)
    assert_equal_to_pinned(network, (32, 64), levels)


@pytest.mark.parametrize("levels", range(4))
@pytest.mark.parametrize("seed", range(3))
def test_uneven_windows(levels: int, seed: int) -> None:
    assert_equal_to_pinned(with_statistics(UnevenNetwork, seed), (24, 48), levels)


@pytest.mark.parametrize("seed", range(40))
def test_random_networks(seed: int) -> None:
    """Functional splits have no offset to pin: against the full map."""
    network = with_statistics(lambda: RandomNetwork(seed), seed).double()
    traced = traced_network(network, shared=True)
    rows, columns = traced.size_multiple
    x = torch.randn(2, 3, 3 * rows, 2 * columns, dtype=torch.float64)
    full = network(x)
    for levels in range(traced.most_levels + 1):
        form = sampled_from_network(traced, levels)
        offsets = drawn(form)
        expected = at_offsets(full, form, offsets)
        torch.testing.assert_close(form.logits(x, offsets), expected, rtol=0, atol=1e-10)
    assert_same_step(network, form, expected, form.logits(x, offsets))


def by_slices(network: SMP, x: Tensor, offsets: Sequence[tuple[int, int]]) -> Tensor:
    """SMP-18 in training mode, written down by hand: whole convolutions, sliced, and normalised over what is left."""
    (h, w), (row, column) = nested_phase([(2, 2)] * 2, list(offsets[:2]))
    x = network.layer1(network.relu(network.bn1(network.conv1(x)[:, :, row::h, column::w])))
    for layer, (row, column) in zip((network.layer2, network.layer3, network.layer4), offsets[2:], strict=True):
        first, second = layer
        out = first.relu(first.bn1(first.conv1(x)[:, :, row::2, column::2]))
        shortcut = first.downsample[1](first.downsample[0](x)[:, :, row::2, column::2])
        x = second(first.relu(first.bn2(first.conv2(out)) + shortcut))
    return network.head(x)


def test_training_mode_moves_parameters_and_statistics_as_written_by_hand() -> None:
    network = with_statistics(lambda: network_from_arch("smp-resnet18", classes=3, width=4), seed=1).double().train()
    assert isinstance(network, SMP)
    other = copy.deepcopy(network)
    form = sampled(network, 5)
    for offsets in (((1, 0), (0, 1), (1, 1), (0, 1), (1, 0)), ((0, 1), (1, 1), (0, 0), (1, 0), (1, 1))):
        x = torch.randn(2, 3, 64, 96, dtype=torch.float64)
        expected, received = by_slices(other, x, offsets), form.logits(x, offsets)
        torch.testing.assert_close(received, expected, rtol=0, atol=1e-10)
        expected.square().mean().backward()
        received.square().mean().backward()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-10, atol=1e-10, msg=name)
    for (name, parameter), wanted in zip(network.named_parameters(), other.parameters(), strict=True):
        scale = wanted.grad.abs().max().clamp(min=1)
        torch.testing.assert_close(parameter.grad / scale, wanted.grad / scale, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
def test_training_mode_is_the_networks_own_where_nothing_is_normalised(levels: int) -> None:
    """The network in training mode shrinks all its levels; of the dense ones, it gives one of the split batches."""
    network = UnevenNetwork().double().train()
    network.stem_norm = network.depthwise_norm = nn.Identity()
    form = sampled(network, levels)
    x = torch.randn(2, 3, 24, 48, dtype=torch.float64)
    splits = (network.split1, network.split2, network.split3)
    offsets = [(2, 1), (0, 1), (0, 3)]
    with pinned_offsets(dict(zip(splits, offsets, strict=True))):
        sparse = network(x)
    # Each dense level has numbered its split batches row by row, behind those of the levels before it.
    logits = form.logits(x, offsets[:levels]).unflatten(0, (2, *(h * w for h, w in form.dense_windows)))
    for (_, w), (row, column) in zip(form.dense_windows, offsets[levels:], strict=True):
        logits = logits[:, row * w + column]
    row, column = nested_phase([split.window for split in splits], offsets)[1]
    torch.testing.assert_close(logits, sparse[..., row::6, column::16], rtol=0, atol=1e-10)


class Repeating(nn.Module):
    """One convolution, one activation and one split, called at three levels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.conv, self.act, self.split = nn.Conv2d(4, 4, 3, padding=1), nn.Tanh(), SplitPool2d(2)
        self.merge = MergePool2d(self.split)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.split(self.act(self.conv(x)))
        return self.merge(self.merge(self.merge(x)))


@pytest.mark.parametrize("levels", range(4))
def test_a_layer_called_at_several_levels(levels: int) -> None:
    torch.manual_seed(levels)
    network = Repeating().double().eval()
    form = sampled(network, levels)
    offsets, x = drawn(form), torch.randn(2, 3, 16, 24, dtype=torch.float64)
    assert_same_step(network, form, at_offsets(network(x), form, offsets), form.logits(x, offsets))


@pytest.mark.parametrize("kind", ["weight norm", "hook"])
def test_convolutions_that_are_more_than_their_weights(kind: str) -> None:
    network = with_statistics(UnevenNetwork, seed=1).double()
    if kind == "hook":
        for conv in (network.stem, network.shortcut, network.pointwise):
            conv.register_forward_hook(lambda module, inputs, output: 3 * output)
    else:
        parametrizations.weight_norm(network.stem)
    assert_equal_to_pinned(network, (24, 48), 2)


class Functional(nn.Module):
    """What changes with the mode without being a layer, and a merge before the end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.outer, self.inner = SplitPool2d(2), SplitPool2d((1, 2))
        self.after, self.before = MergePool2d(self.outer), MergePool2d(self.inner)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(F.dropout(self.outer(self.conv(x)), 0.5, self.training))
        return self.after(self.last(self.before(x)))


def test_a_level_that_is_merged_before_the_end_stays_split() -> None:
    network = Functional().double().eval()
    form = sampled(network, 1)
    assert (form.windows, form.dense_windows) == (((2, 2),), ())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert_same_step(network, form, at_offsets(network(x), form, [(1, 0)]), form.logits(x, [(1, 0)]))
    with pytest.raises(NetworkError, match="0 to 1 levels can be shrunk: those whose merges end the network; receiv"):
        sampled(network, 2)


def test_the_mode_is_the_one_of_the_trace() -> None:
    network = Functional()
    x = torch.randn(1, 3, 8, 8)
    training, evaluating = sampled(network.train(), 0), sampled(network.eval(), 0)
    torch.manual_seed(0)
    dropped = training.logits(x, [])
    assert not torch.equal(dropped, training.logits(x, []))
    torch.testing.assert_close(evaluating.merged(evaluating.logits(x, [])), network(x))


def test_merged_puts_the_dense_levels_at_their_places() -> None:
    network = with_statistics(UnevenNetwork, seed=4)
    x = torch.randn(2, 3, 24, 48)
    with torch.no_grad():
        form, whole = sampled(network), network(x)
        labels = form.merged(form.logits(x, [(2, 1)]).argmax(1, keepdim=True))
    assert form.windows == ((3, 2),)
    assert torch.equal(labels[:, 0], whole.argmax(1)[:, 2::3, 1::2])


def test_the_network_stays_as_it_is_and_may_move() -> None:
    network = with_statistics(lambda: network_from_arch("smp-resnet18", classes=3, width=4), seed=1)
    keys, stride = list(network.state_dict()), network.conv1.stride
    form = sampled(network, 2)
    network.double()  # every parameter and buffer is another tensor now
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    expected = at_offsets(network(x), form, [(0, 1), (1, 0)])
    torch.testing.assert_close(form.logits(x, [(0, 1), (1, 0)]), expected, rtol=0, atol=1e-10)
    assert (list(network.state_dict()), network.conv1.stride) == (keys, stride)


def test_a_step_costs_what_the_strided_network_costs() -> None:
    """FCN32s has the same layers, but its stem computes four elements where the first two splits keep one."""
    x = torch.randn(1, 3, 64, 64)
    counted = {}
    for arch in ("smp-resnet18", "fcn32s-resnet18"):
        network = network_from_arch(arch, classes=3, width=4)
        form = sampled(network, traced_network(network, shared=True).most_levels)
        with FlopCounterMode(display=False) as flops:
            form.logits(x, [(0, 0)] * len(form.windows))
        counted[arch] = flops.get_total_flops()
    stem = 2 * 32 * 32 * 4 * 3 * 7 * 7
    assert counted["smp-resnet18"] == counted["fcn32s-resnet18"] - stem * 3 // 4


@pytest.mark.parametrize(
    ("size", "offsets", "message"),
    [
        ((24, 48), [(0, 0)], "2 levels are shrunk; received 1 offsets"),
        ((24, 48), [(0, 0), (2, 0)], r"offset \(2, 0\) lies outside a window of 2x2"),
        ((25, 48), [(0, 0), (0, 0)], "a window of 3x2 does not divide a map of 25x48"),
        ((15, 48), [(0, 0), (0, 0)], "a window of 2x2 does not divide a map of 5x24"),
    ],
)
def test_what_cannot_be_sampled(size: tuple[int, int], offsets: list[tuple[int, int]], message: str) -> None:
    form = sampled(UnevenNetwork().eval(), 2)
    with pytest.raises(LayoutError, match=message):
        form.logits(torch.zeros(1, 3, *size), offsets)
