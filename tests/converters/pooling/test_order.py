"""A merge undoes the innermost split that is open, and says so where it does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from converters.analysis.network import traced_network
from converters.pooling import MergePool2d, SplitPool2d, pinned_offsets
from engines.errors import LayoutError, NetworkError


class Nested(nn.Module):
    """Two levels of equal windows, merged in an order."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.outer, self.inner = SplitPool2d(2), SplitPool2d(2)
        first, second = (self.inner, self.outer) if order == "right" else (self.outer, self.inner)
        self.merges = nn.Sequential(MergePool2d(first), MergePool2d(second))

    def forward(self, x: Tensor) -> Tensor:
        return self.merges(self.inner(self.outer(x)))


def numbered() -> Tensor:
    """Every pixel its own number, from 1."""
    return torch.arange(1.0, 65).reshape(1, 1, 8, 8)


@pytest.mark.parametrize("mode", ["training", "pinned"])
def test_merges_in_the_wrong_order_are_refused(mode: str) -> None:
    x, network = numbered(), Nested("wrong")
    message = (
        r"a merge of 2x2 undoes a split that gave 4x4, but what comes in is 2x2: a split inside it is still open; "
        "merge the innermost split first"
    )
    if mode == "training":
        with pytest.raises(LayoutError, match=message):
            network.train()(x)
    else:
        with pytest.raises(LayoutError, match=message), pinned_offsets({network.outer: (0, 1), network.inner: (1, 0)}):
            network.eval()(x)
    # Where everything is split and merged, either order is right.
    assert torch.equal(network.eval()(x), x)


def test_merges_in_the_right_order_keep_every_value_at_its_pixel() -> None:
    x, network = numbered(), Nested("right").train()
    for _ in range(50):
        kept = network(x)
        assert int((kept != 0).sum()) == 4
        assert torch.equal(kept, torch.where(kept != 0, x, 0))


def test_an_export_refuses_the_wrong_order_by_the_layer() -> None:
    with pytest.raises(
        NetworkError, match=r"^merges.0 \(merges_0\) merges the split of level 1, while that of level 2"
    ):
        traced_network(Nested("wrong"))
    assert traced_network(Nested("right")).windows == ((2, 2), (2, 2))


def test_a_merge_of_a_split_that_did_not_run_is_refused() -> None:
    split, merge = SplitPool2d(2).train(), MergePool2d(SplitPool2d(2)).train()
    with pytest.raises(LayoutError, match="a merge of 2x2 has no open split"):
        merge(split(numbered()))


def test_a_level_is_merged_once_in_a_pass() -> None:
    """A second merge would draw an offset of its own."""
    split = SplitPool2d(2).train()
    merge = MergePool2d(split).train()
    x = split(numbered())
    merge(x)
    with pytest.raises(LayoutError, match="no open split"):
        merge(x)


def test_branches_of_one_level_may_be_open_side_by_side() -> None:
    left, right = SplitPool2d(2).train(), SplitPool2d((2, 1)).train()
    merge_left, merge_right = MergePool2d(left).train(), MergePool2d(right).train()
    x = numbered()
    a, b = left(x), right(x)
    for merge, sampled, count in ((merge_left, a, 16), (merge_right, b, 32)):
        kept = merge(sampled)
        assert int((kept != 0).sum()) == count
        assert torch.equal(kept, torch.where(kept != 0, x, 0))


def test_a_map_without_its_border_is_merged() -> None:
    """A kernel without padding makes a map smaller than its split left it; that is no further split."""
    split = SplitPool2d(2).train()
    merge = MergePool2d(split).train()
    assert merge(split(numbered())[..., 1:, :]).shape == (1, 1, 6, 8)
