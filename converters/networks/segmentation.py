"""SMP-X, FCN32s and FCN8s: segmentation networks on a ResNet (section 4.1).

All three map ``(n, 3, H, W)`` float32, RGB normalised, to logits ``(n, classes, H, W)``, with ``H`` and ``W``
multiples of 32. SMP-X and FCN32s have the same parameters, so a checkpoint of one loads into the other.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.networks.resnet import Backbone, ResNet, Subsampling
from converters.pooling import MergePool2d


class SegmentationNetwork(ResNet):
    """A ResNet with a 1x1 classifier, ``head``, on ``layer4``."""

    size_multiple = (32, 32)
    """The sides ``(H, W)`` of an input are multiples of this."""

    def __init__(self, backbone: Backbone, subsampling: Subsampling, *, classes: int, width: int) -> None:
        super().__init__(backbone, subsampling, width)
        self.classes = classes
        self.head = nn.Conv2d(self.channels[3], classes, 1)


class SMP(SegmentationNetwork):
    """SMP-X: every subsampling layer is a 2x2 split, and five merges put the predictions at their pixels.

    In training mode the splits shrink and the result is sparse: one pixel of every 32x32 window.
    """

    def __init__(self, backbone: Backbone, *, classes: int, width: int) -> None:
        super().__init__(backbone, Subsampling.SPLIT, classes=classes, width=width)
        self.merges = nn.ModuleList(MergePool2d(split) for split in reversed(self.splits))

    def split_logits(self, x: Tensor) -> Tensor:
        """Logits before the merges: ``(n * 1024, classes, H/32, W/32)``; in training mode ``(n, ...)``."""
        return self.head(self.features(x)[2])  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        logits = self.split_logits(x)
        for merge in self.merges:
            logits = merge(logits)
        return logits


class FCN32s(SegmentationNetwork):
    """The baseline: logits 32 times smaller than the image, resized bilinearly."""

    def __init__(self, backbone: Backbone, *, classes: int, width: int) -> None:
        super().__init__(backbone, Subsampling.STRIDED, classes=classes, width=width)

    def forward(self, x: Tensor) -> Tensor:
        return _resize(self.head(self.features(x)[2]), x)


class FCN8s(SegmentationNetwork):
    """FCN32s with 1x1 classifiers on layer2 and layer3 too; the sum is 8 times smaller than the image."""

    def __init__(self, backbone: Backbone, *, classes: int, width: int) -> None:
        super().__init__(backbone, Subsampling.STRIDED, classes=classes, width=width)
        self.head_layer2 = nn.Conv2d(self.channels[1], classes, 1)
        self.head_layer3 = nn.Conv2d(self.channels[2], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        layer2, layer3, layer4 = self.features(x)
        logits = self.head_layer2(layer2)
        logits = logits + _resize(self.head_layer3(layer3), logits) + _resize(self.head(layer4), logits)
        return _resize(logits, x)


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
