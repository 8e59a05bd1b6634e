"""ResNet backbones whose subsampling is either strided (the original) or a split (section 4.1, Figure 3).

State-dict keys and layer shapes are torchvision's, with the stride of a bottleneck on its 3x3 convolution, so
ImageNet checkpoints load. Splits have no parameters and leave the keys as they are.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from converters.pooling import SplitPool2d


class Subsampling(enum.Enum):
    """How a backbone reduces its resolution."""

    STRIDED = "strided"
    SPLIT = "split"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; ``subsample`` follows the first batch norm and the shortcut's."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, split: SplitPool2d | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.split = split
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride, split)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x))
        if self.split is not None:
            out = self.split(out)
        out = self.bn2(self.conv2(self.relu(out)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(out + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the 3x3 subsamples."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, split: SplitPool2d | None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.split = split
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels * self.expansion, stride, split)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.split is not None:
            out = self.split(out)
        out = self.bn3(self.conv3(self.relu(out)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(out + shortcut)  # type: ignore[no-any-return]


def _shortcut(in_channels: int, out_channels: int, stride: int, split: SplitPool2d | None) -> nn.Sequential | None:
    if stride == 1 and split is None and in_channels == out_channels:
        return None
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    # The shortcut uses the block's own split, so that both branches shrink at the same offset in training.
    return nn.Sequential(*layers, *([] if split is None else [split]))


@dataclass(frozen=True)
class Backbone:
    """What tells one ResNet from another."""

    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, int, int, int]


BACKBONES = {
    "resnet18": Backbone(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Backbone(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Backbone(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Backbone(Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """A ResNet without its average pool and classifier.

    Args:
        backbone: block type and counts.
        subsampling: strided convolutions and max pooling, or splits in their place.
        width: channels of the stem; 64 in the original, fewer for slim variants.

    :meth:`features` gives the outputs of ``layer2``, ``layer3`` and ``layer4``. With splits these carry 64, 256
    and 1024 split batches for each image; strided, they are 8, 16 and 32 times smaller than the image.
    """

    def __init__(self, backbone: Backbone, subsampling: Subsampling, width: int = 64) -> None:
        super().__init__()
        self.splits: Sequence[SplitPool2d] = ()
        if subsampling is Subsampling.SPLIT:
            self.splits = tuple(SplitPool2d(2) for _ in range(5))
        stride = 1 if self.splits else 2
        self.conv1 = nn.Conv2d(3, width, 7, stride, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.split = self.splits[0] if self.splits else None
        self.maxpool = self.splits[1] if self.splits else nn.MaxPool2d(3, stride=2, padding=1)
        self._in_channels = width
        self.layer1 = self._layer(backbone, 0, width, 1, None)
        self.layer2 = self._layer(backbone, 1, width * 2, stride, self.splits[2] if self.splits else None)
        self.layer3 = self._layer(backbone, 2, width * 4, stride, self.splits[3] if self.splits else None)
        self.layer4 = self._layer(backbone, 3, width * 8, stride, self.splits[4] if self.splits else None)
        self.channels = tuple(width * scale * backbone.block.expansion for scale in (1, 2, 4, 8))
        self._initialise()

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(n, 3, H, W)`` normalised RGB -> the outputs of layer2, layer3 and layer4."""
        x = self.bn1(self.conv1(x))
        if self.split is not None:
            x = self.split(x)
        x = self.layer1(self.maxpool(self.relu(x)))
        layer2 = self.layer2(x)
        layer3 = self.layer3(layer2)
        return layer2, layer3, self.layer4(layer3)

    def _layer(
        self, backbone: Backbone, index: int, channels: int, stride: int, split: SplitPool2d | None
    ) -> nn.Sequential:
        blocks: list[nn.Module] = []
        for position in range(backbone.blocks[index]):
            first = position == 0
            blocks.append(backbone.block(self._in_channels, channels, stride if first else 1, split if first else None))
            self._in_channels = channels * backbone.block.expansion
        return nn.Sequential(*blocks)

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
