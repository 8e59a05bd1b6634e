"""The three small networks of Figure 7, on which Table 5 counts operations.

The paper names neither channels nor biases. 3x3 convolutions of 64 and 128 channels with bias and ReLU, at two
operations for a multiply-accumulate, give every figure of the table: 0.23, 2.42 and 9.68 GFLOP, 2.65 and 9.92
in all.
"""

from __future__ import annotations

from torch import Tensor, nn

from converters.pooling import MergePool2d, SplitPool2d


class MaxPoolNetwork(nn.Module):
    """(a) Max pooling between two convolutions: ``(n, 3, H, W) -> (n, 128, H/2, W/2)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = _conv(64, 128)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.pool(self.conv1(x)))  # type: ignore[no-any-return]


class DilatedNetwork(nn.Module):
    """(b) No pooling, and a second convolution dilated by 2: ``(n, 3, H, W) -> (n, 128, H, W)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64)
        self.conv2 = _conv(64, 128, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))  # type: ignore[no-any-return]


class SplitNetwork(nn.Module):
    """(c) Split pooling in place of max pooling, merged at the end: ``(n, 3, H, W) -> (n, 128, H, W)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv(3, 64)
        self.pool = SplitPool2d(2)
        self.conv2 = _conv(64, 128)
        self.merge = MergePool2d(self.pool)

    def forward(self, x: Tensor) -> Tensor:
        return self.merge(self.conv2(self.pool(self.conv1(x))))  # type: ignore[no-any-return]


def _conv(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True)
    )
