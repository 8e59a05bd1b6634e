"""What a step samples: which levels, which elements, and which labels belong to them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from converters.networks import network_from_arch
from converters.pooling import MergePool2d, SplitPool2d
from engines.errors import InputError, LayoutError
from smp_deploy.training import (
    Sampling,
    draw_sampling,
    sampled_labels,
    sampled_logits,
    training_form,
    validation_form,
)
from tests.networks import UnevenNetwork

TWO = (2, 2)


def _smp() -> nn.Module:
    return network_from_arch("smp-resnet18", classes=3, width=2)


class _Refined(nn.Module):
    """A convolution after the outer merge, so that its level must stay split."""

    def __init__(self, windows: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.splits = nn.ModuleList(SplitPool2d(window) for window in windows)
        self.merges = nn.ModuleList(MergePool2d(split) for split in reversed(self.splits))
        self.last = nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for split in self.splits:
            x = split(x)
        for merge in self.merges:
            x = merge(x)
        return self.last(x)


@pytest.mark.parametrize("dense_levels", range(6))
def test_dense_levels_are_the_last_ones(dense_levels):
    form = training_form(_smp(), dense_levels)
    assert (form.windows, form.dense_windows) == ((TWO,) * (5 - dense_levels), (TWO,) * dense_levels)


def test_windows_of_every_shape():
    assert training_form(UnevenNetwork(), 1).windows == ((3, 2), (2, 2))
    assert training_form(UnevenNetwork(), 1).dense_windows == ((1, 4),)


def test_a_network_that_needs_all_its_phases_keeps_them():
    form = training_form(_Refined((TWO, (3, 1))), 0)
    assert (form.windows, form.dense_windows) == ((), ())
    x, labels = torch.randn(1, 3, 12, 12), torch.randint(5, (1, 12, 12))
    sampling = draw_sampling(form)
    assert sampled_logits(form, x, sampling).shape == (1, 5, 12, 12)
    assert torch.equal(sampled_labels(labels, sampling), labels)


def test_a_network_without_splits_is_itself():
    network = network_from_arch("fcn8s-resnet18", classes=3, width=2).eval()
    form, x = training_form(network, 0), torch.randn(1, 3, 64, 32)
    assert torch.equal(sampled_logits(form, x, draw_sampling(form)), network(x))


@pytest.mark.parametrize(
    ("network", "levels", "message"),
    [
        ("smp-resnet18", 6, "dense_levels= must be 0 to 5; received 6"),
        ("fcn32s-resnet18", 1, "dense_levels= must be 0 for a network without splits; received 1"),
    ],
)
def test_more_dense_levels_than_there_are(network, levels, message):
    with pytest.raises(InputError, match=message):
        training_form(network_from_arch(network, classes=3, width=2), levels)


def test_validation_judges_one_of_64_pixels_at_a_time():
    assert validation_form(_smp().eval()).windows == (TWO,) * 3
    # 6 and 24 are fewer, so this network shrinks all its levels, and so does a smaller one.
    assert validation_form(UnevenNetwork().eval()).windows == ((3, 2), (2, 2), (1, 4))
    assert validation_form(nn.Sequential(*_two_levels(2)).eval()).windows == (TWO, TWO)
    # Both splits come before any convolution: no work is repeated for more than enough of them.
    assert validation_form(nn.Sequential(*_two_levels(16)).eval()).windows == ((16, 16),) * 2
    assert validation_form(network_from_arch("fcn32s-resnet18", classes=3, width=2).eval()).windows == ()


def _two_levels(side: int = 2) -> list[nn.Module]:
    first, second = SplitPool2d(side), SplitPool2d(side)
    return [first, second, nn.Conv2d(3, 2, 3, padding=1), MergePool2d(second), MergePool2d(first)]


def test_offsets_are_uniform_and_a_function_of_the_generator():
    form = training_form(UnevenNetwork(), 0)
    draws = [draw_sampling(form, torch.Generator().manual_seed(seed)).offsets for seed in range(900)]
    assert draws[7] == draw_sampling(form, torch.Generator().manual_seed(7)).offsets
    drawn = torch.tensor(draws)
    for level, window in enumerate(((3, 2), (2, 2), (1, 4))):
        for axis, side in enumerate(window):
            counts = torch.bincount(drawn[:, level, axis], minlength=side)
            assert len(counts) == side
            deviation = (900 / side * (1 - 1 / side)) ** 0.5
            assert ((counts - 900 / side).abs() <= 4 * deviation).all()


def test_labels_by_plain_slicing():
    labels = torch.arange(2 * 12 * 32).reshape(2, 12, 32)
    sampling = Sampling(((3, 2), (2, 2)), ((2, 1), (1, 0)), ((1, 4),))
    # Rows 2 + 3 * 1 of every 6, columns 1 + 2 * 0 of every 4; of those, every fourth column from each of four on.
    picked = labels[:, 5::6, 1::4]
    expected = torch.stack([picked[:, :, column::4] for column in range(4)], dim=1).flatten(0, 1)
    assert torch.equal(sampled_labels(labels, sampling), expected)


def test_logits_lie_where_the_labels_do():
    """A network that gives back its input, whose values say where they come from."""
    network = nn.Sequential(*_two_levels()).eval()
    nn.init.dirac_(network[2].weight)
    nn.init.zeros_(network[2].bias)
    places = torch.arange(2 * 8 * 12).reshape(2, 8, 12)
    x = places[:, None].expand(2, 3, 8, 12).float()
    for dense_levels in range(3):
        form = training_form(network, dense_levels)
        sampling = draw_sampling(form, torch.Generator().manual_seed(dense_levels))
        assert torch.equal(sampled_logits(form, x, sampling)[:, 0].long(), sampled_labels(places, sampling))


def test_a_sampling_of_another_network():
    with pytest.raises(LayoutError, match=r"shrinks \(\(2, 2\), .* cannot be sampled by \(\(3, 2\),\)"):
        sampled_logits(training_form(_smp(), 0), torch.zeros(1, 3, 32, 32), Sampling(((3, 2),), ((0, 0),)))
    with pytest.raises(LayoutError, match=r"offset \(3, 0\) lies outside a window of 3x2"):
        Sampling(((3, 2),), ((3, 0),))


def test_a_step_needs_no_more_memory_than_fcn32s():
    """Of what is kept for the backward pass, at SMP-18's real width; within a tenth of FCN32s's."""
    kept = {}
    x = torch.randn(1, 3, 64, 64)
    for arch in ("smp-resnet18", "fcn32s-resnet18"):
        network = network_from_arch(arch, classes=19)
        form = training_form(network, 0)
        parameters = {parameter.data_ptr() for parameter in network.parameters()}
        storages: dict[int, int] = {}

        def pack(tensor: Tensor, parameters=parameters, storages=storages) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in parameters:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        alive = []
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            alive.append(sampled_logits(form, x, draw_sampling(form)).log_softmax(1))
        kept[arch] = sum(storages.values())
    assert kept["smp-resnet18"] <= 1.1 * kept["fcn32s-resnet18"]
