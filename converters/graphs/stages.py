"""The modules around a network that become graphs: from a uint8 frame to labels, with nothing left to a caller.

What a session does in steps (prepare, trunk on windows, merge) and what ``model.onnx`` does at once use the same
normalisation and the same network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from engines.bundle.manifest import OutputKind
from engines.schedules.phases import PhaseGrid, Size

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
        *batch, rows, columns, colours = range(frame.ndim)
        return cast(frame, torch.float32).permute(*batch, colours, rows, columns) * self.scale + self.shift


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


class Predictions(nn.Module):
    """Logits of split batches, float32 -> what the trunk gives, at its place in the grid of the phases.

    Labels ``(n, i, j)`` uint8, or logits or probabilities ``(n, classes, i, j)`` float32. Labels are taken
    before the merges, so that these move one value for a pixel and not one for each class.
    """

    def __init__(self, merges: tuple[Callable[[Tensor], Tensor], ...], outputs: OutputKind) -> None:
        super().__init__()
        self.merges = merges
        self.outputs = outputs

    def forward(self, predictions: Tensor) -> Tensor:
        """Merge what the network left split, one merge after the other."""
        if self.outputs is OutputKind.LABELS:
            # TensorRT permutes no uint8, and casts to it from float alone.
            predictions = cast(predictions.argmax(1, keepdim=True), torch.float32)
        elif self.outputs is OutputKind.PROBABILITIES:
            predictions = predictions.softmax(1)
        for merge in self.merges:
            predictions = merge(predictions)
        return cast(predictions.squeeze(1), torch.uint8) if self.outputs is OutputKind.LABELS else predictions


class Trunk(nn.Module):
    """Windows of ``n`` phases ``(n, 3, H', W')`` float32 -> :class:`Predictions` of these phases.

    Args:
        network: windows, and offsets where inner levels are walked, to logits of the split batches.
        merges: what puts the predictions of split batches at their places.
        outputs: what to give.
    """

    def __init__(
        self, network: fx.GraphModule, merges: tuple[Callable[[Tensor], Tensor], ...], outputs: OutputKind
    ) -> None:
        super().__init__()
        self.network = network
        self.predictions = Predictions(merges, outputs)

    def forward(self, windows: Tensor, offsets: Tensor | None = None) -> Tensor:
        """``offsets``: int64 ``(inner levels, 2)``, the same for all ``n`` phases."""
        logits = self.network(windows) if offsets is None else self.network(windows, offsets)
        return self.predictions(logits)  # type: ignore[no-any-return]


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x.to(dtype)``, as the operator that ONNX has a counterpart of: :mod:`converters.graphs.exporter` says why."""
    return torch.ops.aten._to_copy.default(x, dtype=dtype)  # type: ignore[no-any-return]


def _missing(size: Size, padded: Size) -> tuple[int, int]:
    return padded[0] - size[0], padded[1] - size[1]
