"""Training crops: scale, aspect, crop, flip and colour, as a function of a random generator alone."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.graphs.stages import Normalization, Normalize
from smp_deploy.datasets.base import Example
from smp_deploy.training.config import Augmentation

_Box: TypeAlias = tuple[float, float, float, float]
_NORMALIZE = Normalize(Normalization())


def planes_from_image(image: NDArray[np.uint8]) -> Tensor:
    """``(H, W, 3)`` uint8 RGB -> ``(3, H, W)`` float32, normalised as in a bundle."""
    return _normalised(torch.from_numpy(image.astype(np.float32)))


def padded_to(x: Tensor, size: tuple[int, int], corner: tuple[int, int] = (0, 0), *, value: float = 0) -> Tensor:
    """Put ``x (..., H, W)`` at ``corner`` of a map of ``size`` that holds ``value`` elsewhere."""
    (height, width), (top, left) = size, corner
    bottom, right = height - x.shape[-2] - top, width - x.shape[-1] - left
    return F.pad(x, (left, right, top, bottom), value=value)


def augmented(
    example: Example, augmentation: Augmentation, ignore_id: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One training crop: ``(3, h, w)`` float32 normalised and ``(h, w)`` int64 labels, ``(h, w)`` the crop size.

    The labels are resampled by nearest neighbour, so no label appears that was not there. Where the resized
    frame is smaller than the crop, it lies at a random place in it.
    """
    box, size = _region(example.labels.shape, augmentation, rng)
    image = _resized(example.image, box, size, Image.Resampling.BILINEAR)
    labels = _resized(example.labels, box, size, Image.Resampling.NEAREST)
    x = _normalised(_recoloured(torch.from_numpy(image.astype(np.float32)), augmentation.jitter, rng))
    y = torch.from_numpy(labels.astype(np.int64))
    if rng.random() < augmentation.flip:
        x, y = x.flip(-1), y.flip(-1)
    crop = augmentation.crop
    corner = (int(rng.integers(crop[0] - size[0] + 1)), int(rng.integers(crop[1] - size[1] + 1)))
    return padded_to(x, crop, corner), padded_to(y, crop, corner, value=ignore_id)


def _normalised(frame: Tensor) -> Tensor:
    """``(H, W, 3)`` float32 RGB in [0, 255] -> ``(3, H, W)`` float32, row by row in memory."""
    planes: Tensor = _NORMALIZE(frame)
    return planes.contiguous()


def _region(
    shape: tuple[int, ...], augmentation: Augmentation, rng: np.random.Generator
) -> tuple[_Box, tuple[int, int]]:
    """The box ``(left, top, right, bottom)`` of the frame that is resized to ``(height, width)`` of the crop."""
    low, high = (math.log(factor) for factor in augmentation.scale)
    scale_rows = math.exp(rng.uniform(low, high))
    scale_columns = scale_rows * math.exp(rng.uniform(-augmentation.aspect, augmentation.aspect))
    (rows, columns), crop = shape, augmentation.crop
    height, width = min(rows, crop[0] / scale_rows), min(columns, crop[1] / scale_columns)
    size = min(crop[0], max(1, round(height * scale_rows))), min(crop[1], max(1, round(width * scale_columns)))
    if low == high == 0 and augmentation.aspect == 0:
        # Without resizing, the crop lies on the pixel grid and copies pixels.
        top = float(rng.integers(rows - size[0] + 1))
        left = float(rng.integers(columns - size[1] + 1))
    else:
        top, left = rng.uniform(0, rows - height), rng.uniform(0, columns - width)
    return (left, top, left + width, top + height), size


def _resized(array: NDArray[np.uint8], box: _Box, size: tuple[int, int], method: Image.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), method, box=box))


def _recoloured(x: Tensor, jitter: float, rng: np.random.Generator) -> Tensor:
    """``(H, W, 3)`` float32 RGB in [0, 255], and so again."""
    if jitter == 0:
        return x
    brightness, contrast = rng.uniform(1 - jitter, 1 + jitter, 2)
    saturation = rng.uniform(1 - jitter * 4 / 3, 1 + jitter * 4 / 3)
    tint = rng.uniform(1 - jitter / 6, 1 + jitter / 6, 3).astype(np.float32)
    x = x * float(brightness)
    mean = x.mean()
    x = (x - mean) * float(contrast) + mean
    grey = x.mean(-1, keepdim=True)
    x = (grey + (x - grey) * float(saturation)) * torch.from_numpy(tint)
    return x.clamp(0, 255)
