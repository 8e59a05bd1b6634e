"""The modules around a network that become graphs: from a uint8 frame to labels, with nothing left to a caller.

What a session does in steps (prepare, trunk on windows, merge) and what ``model.onnx`` does at once use the same
normalisation and the same network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.pooling import Window, merge
from engines.manifest import OutputKind
from engines.phases import PhaseGrid, Size

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Normalization:
    """``(x / 255 - mean) / std`` for RGB in [0, 255]; the default is ImageNet's."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


class Normalize(nn.Module):
    """``(..., H, W, 3)`` uint8 RGB -> ``(..., 3, H, W)`` float32."""

    scale: Tensor
    shift: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        mean = torch.tensor(normalization.mean, dtype=torch.float64).reshape(3, 1, 1)
        std = torch.tensor(normalization.std, dtype=torch.float64).reshape(3, 1, 1)
        self.register_buffer("scale", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, frame: Tensor) -> Tensor:
        """Cast before the transpose: TensorRT permutes no uint8."""
        return frame.float().movedim(-1, -3) * self.scale + self.shift


class Prepare(nn.Module):
    """One frame ``(H, W, 3)`` uint8 -> planes ``(3, *planes_size)``: normalised, then zeros around and beyond."""

    def __init__(self, normalization: Normalization, grid: PhaseGrid) -> None:
        super().__init__()
        self.normalize = Normalize(normalization)
        top, left, bottom, right = grid.border
        below, beside = _missing(grid.frame_size, grid.padded_size)
        self.padding = (left, right + beside, top, bottom + below)

    def forward(self, frame: Tensor) -> Tensor:
        """Pad after normalisation: a convolution's zero is no uint8 value."""
        planes = self.normalize(frame)
        return F.pad(planes, self.padding) if any(self.padding) else planes


class WholeNetwork(nn.Module):
    """Frames ``(n, H, W, 3)`` uint8 -> logits ``(n, classes, H, W)`` float32, the network as it is."""

    def __init__(self, normalization: Normalization, network: nn.Module, frame_size: Size, padded_size: Size) -> None:
        super().__init__()
        self.normalize = Normalize(normalization)
        self.network = network
        self.frame_size = frame_size
        self.missing = _missing(frame_size, padded_size)

    def forward(self, frames: Tensor) -> Tensor:
        """Pad to a multiple of the windows after normalisation, and crop what comes out."""
        below, beside = self.missing
        planes = self.normalize(frames)
        if not (below or beside):
            return self.network(planes)  # type: ignore[no-any-return]
        logits = self.network(F.pad(planes, (0, beside, 0, below)))
        return logits[..., : self.frame_size[0], : self.frame_size[1]]  # type: ignore[no-any-return]


class Trunk(nn.Module):
    """Windows of ``n`` phases ``(n, 3, H', W')`` float32 -> predictions of these phases, in their own grid.

    Labels ``(n, i, j)`` uint8, or logits or probabilities ``(n, classes, i, j)`` float32. Labels are taken
    before the inner merges, so that these move one value for a pixel and not one for each class.

    Args:
        network: windows to logits of the split batches.
        inner_merges: windows to merge afterwards, in this order.
        outputs: what to give.
        dtype: arithmetic of the network.
    """

    def __init__(
        self, network: fx.GraphModule, inner_merges: list[Window], outputs: OutputKind, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.inner_merges = inner_merges
        self.outputs = outputs
        self.dtype = dtype

    def forward(self, windows: Tensor) -> Tensor:
        """Everything after the network is in float32."""
        predictions: Tensor = self.network(windows.to(self.dtype)).float()
        if self.outputs is OutputKind.LABELS:
            # TensorRT permutes no uint8, and casts to it from float alone.
            predictions = predictions.argmax(1, keepdim=True).float()
        elif self.outputs is OutputKind.PROBABILITIES:
            predictions = predictions.softmax(1)
        for window in self.inner_merges:
            predictions = merge(predictions, window)
        return predictions.squeeze(1).to(torch.uint8) if self.outputs is OutputKind.LABELS else predictions


def _missing(size: Size, padded: Size) -> tuple[int, int]:
    return padded[0] - size[0], padded[1] - size[1]
