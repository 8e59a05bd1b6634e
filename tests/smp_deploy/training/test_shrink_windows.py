"""Shrink and expand of any window: the gradient of the sampled elements, and of them alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from converters.pooling import ExpandPool2d, MergePool2d, ShrinkPool2d, SplitPool2d


@pytest.mark.parametrize("window", [(2, 2), (1, 3), (3, 2), (4, 4)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradient_is_that_of_split_and_merge_restricted_to_the_sampled_elements(window, seed):
    torch.manual_seed(seed)
    offset = (int(torch.randint(window[0], ())), int(torch.randint(window[1], ())))
    before = nn.Conv2d(2, 5, 3, padding=1).double()
    after = nn.Sequential(nn.ReLU(), nn.Conv2d(5, 3, 3, padding=1)).double()
    split, shrink = SplitPool2d(window).eval(), ShrinkPool2d(window, offset)
    x = torch.randn(2, 2, 5 * window[0], 4 * window[1], dtype=torch.float64)
    truth = torch.randint(3, (2, *x.shape[-2:]))

    full = MergePool2d(split).eval()(after(split(before(x))))
    rows, columns = slice(offset[0], None, window[0]), slice(offset[1], None, window[1])
    nn.functional.cross_entropy(full[..., rows, columns], truth[:, rows, columns]).backward()
    expected = [parameter.grad.clone() for parameter in (*before.parameters(), *after.parameters())]
    before.zero_grad()
    after.zero_grad()

    values, mask = ExpandPool2d(shrink)(after(shrink(before(x))))
    ignored = truth.masked_fill(~mask, -100)
    nn.functional.cross_entropy(values, ignored).backward()
    received = [parameter.grad for parameter in (*before.parameters(), *after.parameters())]
    for have, want in zip(received, expected, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-12)
