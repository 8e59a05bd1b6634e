"""Layers: what is shared within a forward pass, what is drawn anew, and what a pinned offset computes."""

import pytest
import torch
from torch import Tensor, nn

from converters.networks import network_from_arch
from converters.pooling import (
    ExpandPool2d,
    MergePool2d,
    ShrinkPool2d,
    SplitPool2d,
    draw_offsets,
    nested_phase,
    pinned_offsets,
    split,
)
from engines.errors import LayoutError
from tests.networks import with_statistics


class TwoBranches(nn.Module):
    """A main branch and a shortcut that must be sampled at the same place."""

    def __init__(self) -> None:
        super().__init__()
        self.split = SplitPool2d((2, 3))
        self.merge = MergePool2d(self.split)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.split(x) - self.split(x) + self.split(x))


def test_training_gives_the_input_at_one_offset_and_zero_elsewhere() -> None:
    network = TwoBranches().train()
    x = torch.arange(1.0, 37).reshape(1, 1, 6, 6)
    seen = set()
    for _ in range(200):
        kept = network(x)
        row, column = (int(index[0]) for index in torch.nonzero(kept[0, 0], as_tuple=True))
        expected = torch.zeros_like(x)
        expected[..., row::2, column::3] = x[..., row::2, column::3]
        assert torch.equal(kept, expected)
        seen.add((row, column))
    # 200 draws miss one of 6 offsets with a probability of 1e-15.
    assert seen == {(row, column) for row in range(2) for column in range(3)}


def test_evaluation_splits_and_merges_without_a_change_to_the_code() -> None:
    network = TwoBranches().eval()
    x = torch.randn(2, 3, 4, 6)
    assert torch.equal(network(x), x)
    assert torch.equal(network.split(x), split(x, (2, 3)))


def test_the_draw_follows_the_seed() -> None:
    network = TwoBranches().train()
    x = torch.rand(1, 1, 6, 6) + 1
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append([network(x) for _ in range(5)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_shrink_and_expand_share_one_offset_a_pass() -> None:
    shrink = ShrinkPool2d(4).train()
    expand = ExpandPool2d(shrink)
    x = torch.rand(1, 1, 8, 8) + 1
    masks = []
    for _ in range(50):
        values, mask = expand(shrink(x))
        assert torch.equal(values, torch.where(mask, x, 0))
        assert int(mask.sum()) == 4
        masks.append(mask)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 10


def test_shrink_with_a_fixed_offset_never_draws() -> None:
    shrink = ShrinkPool2d(2, offset=(1, 0)).train()
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    for _ in range(5):
        assert shrink(x)[0, 0].tolist() == [[4, 6], [12, 14]]
        assert int(ExpandPool2d(shrink)(shrink(x)).values[0, 0, 1, 0]) == 4


def test_shrink_in_evaluation_takes_the_first_offset() -> None:
    assert ShrinkPool2d(2).eval()(torch.arange(4.0).reshape(1, 1, 2, 2)).item() == 0


def test_pinned_splits_compute_one_split_batch_of_the_full_network() -> None:
    network = with_statistics(lambda: network_from_arch("smp-resnet18", classes=5, width=4), seed=0)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        full = network(x)
        for levels in range(1, 6):
            offsets = [(1, 0), (0, 1), (1, 1), (0, 0), (1, 0)][:levels]
            with pinned_offsets(dict(zip(network.splits, offsets, strict=False))):
                kept = network(x)
            (h, w), (row, column) = nested_phase([(2, 2)] * levels, offsets)
            expected = torch.zeros_like(full)
            expected[..., row::h, column::w] = full[..., row::h, column::w]
            torch.testing.assert_close(kept, expected, rtol=0, atol=1e-5 * float(full.abs().max()))
        # Unpinned, the network is as it was.
        assert torch.equal(network(x), full)


def test_drawn_offsets_hold_for_a_whole_step() -> None:
    network = network_from_arch("smp-resnet18", classes=5, width=4).train()
    x = torch.randn(2, 3, 64, 64)
    offsets = draw_offsets(list(network.splits))
    with pinned_offsets(offsets):
        sparse = network(x)
        small = network.split_logits(x)
    (h, w), (row, column) = nested_phase([(2, 2)] * 5, [offsets[layer] for layer in network.splits])
    assert (h, w) == (32, 32)
    # Batch norms in training use the batch's own statistics, which are the same in both passes.
    torch.testing.assert_close(sparse[..., row::h, column::w], small)


def test_bad_windows_and_offsets_are_refused() -> None:
    with pytest.raises(LayoutError, match="at least 1x1"):
        SplitPool2d((0, 2))
    with pytest.raises(LayoutError, match="cannot share"):
        SplitPool2d(2, shared=SplitPool2d(3).shared)
    layer = SplitPool2d(2)
    with pytest.raises(LayoutError, match=r"offset \(2, 0\)"), pinned_offsets({layer: (2, 0)}):
        pass
    assert layer.shared.pinned is None
