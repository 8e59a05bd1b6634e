"""A network of one's own: three splits with windows 3x2, 2x2 and 1x4, and a depthwise block.

Run as a script, it exports the network to a temporary folder, labels a frame of noise, and compares with PyTorch.
``smp-deploy export --model own_network:factory`` exports the same network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import smp_deploy
from smp_deploy import MergePool2d, SplitPool2d

SIZE = (126, 256)


class DepthwiseBlock(nn.Module):
    """A depthwise 3x3 and a 1x1 convolution beside a 1x1 shortcut. Both branches share one split."""

    def __init__(self, in_channels: int, out_channels: int, split: SplitPool2d) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False)
        self.norm = nn.BatchNorm2d(in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.split = split

    def forward(self, x: Tensor) -> Tensor:
        main = self.pointwise(torch.relu(self.split(self.norm(self.depthwise(x)))))
        return torch.relu(main + self.split(self.shortcut(x)))


class OwnNetwork(nn.Module):
    """``(n, 3, H, W)`` normalised RGB -> logits ``(n, classes, H, W)``; H a multiple of 6, W of 16."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.second, self.third = SplitPool2d((3, 2)), SplitPool2d(2), SplitPool2d((1, 4))
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 5, padding=2, bias=False), nn.BatchNorm2d(16), self.first, nn.ReLU())
        self.block = DepthwiseBlock(16, 32, self.second)
        self.deep = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), self.third, nn.ReLU(), nn.Conv2d(32, classes, 1))
        # The innermost split is merged first.
        self.merges = nn.Sequential(MergePool2d(self.third), MergePool2d(self.second), MergePool2d(self.first))

    def forward(self, x: Tensor) -> Tensor:
        return self.merges(self.deep(self.block(self.stem(x))))  # type: ignore[no-any-return]


def factory() -> nn.Module:
    """What ``--model own_network:factory`` calls. Trained weights would be loaded here; these are random."""
    torch.manual_seed(0)
    return OwnNetwork(classes=5)


def for_scenes() -> nn.Module:
    """The same network for the nine classes of the generated scenes, to train: ``--model own_network:for_scenes``."""
    torch.manual_seed(0)
    return OwnNetwork(classes=9)


def main() -> None:
    """Export, label a frame, compare with PyTorch."""
    network = factory().eval()
    frame = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        bundle = smp_deploy.export(network, Path(folder) / "own.bundle", size=SIZE, precisions=(), on_step=print)
        schedule = smp_deploy.Schedule(levels=bundle.manifest.trunk().levels, sub_batch=2)
        with smp_deploy.Session.open(bundle, schedule=schedule) as session:
            labels = session.predict(frame)
            grid = session.grid
    print(f"{len(grid.phases)} phases, each from a window of {grid.crop_size} to labels of {grid.phase_size}")
    with torch.inference_mode():
        # ImageNet's, the default of an export.
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        image = (torch.from_numpy(frame) / 255 - mean) / std
        logits = network(image.permute(2, 0, 1).unsqueeze(0))[0]
    equal = (torch.from_numpy(labels) == logits.argmax(0)).float().mean().item()
    print(f"labels {labels.shape} {labels.dtype}: {equal:.4%} equal PyTorch's")


if __name__ == "__main__":
    main()
