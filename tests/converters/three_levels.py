"""A network of three levels whose bundles the tests of proofs spoil."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from converters.pooling import MergePool2d, SplitPool2d
from converters.reference import noise_frame
from tests.networks import with_statistics

SIZE = (48, 64)


class ThreeLevels(nn.Module):
    """Three splits, each after a convolution with its batch norm, and a convolution on the last level."""

    def __init__(self) -> None:
        super().__init__()
        self.splits = nn.ModuleList(SplitPool2d(2) for _ in range(3))
        self.convs = nn.ModuleList(
            nn.Conv2d(i, o, 3, padding=1, bias=False) for i, o in ((3, 8), (8, 8), (8, 12), (12, 12))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (8, 8, 12, 12))
        self.head = nn.Conv2d(12, 5, 1)
        self.merges = nn.ModuleList(MergePool2d(split) for split in reversed(self.splits))

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm, split in zip(self.convs, self.norms, [*self.splits, None], strict=True):
            x = norm(conv(x))
            x = nn.functional.relu(split(x) if split is not None else x)
        x = self.head(x)
        for merge in self.merges:
            x = merge(x)
        return x


def three_levels(seed: int = 5) -> nn.Module:
    """With labels that vary from pixel to pixel: no class is ahead of the others everywhere."""
    network = with_statistics(ThreeLevels, seed)
    with torch.no_grad():
        frame = torch.from_numpy(noise_frame(SIZE, seed=1)).movedim(-1, 0)[None] / 64 - 2
        network.head.bias -= network(frame).mean((0, 2, 3))
    return network
