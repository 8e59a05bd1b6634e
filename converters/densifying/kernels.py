"""What an upsampling becomes: its own kernel at stride 1, on the merged map.

An upsampling by ``f`` puts map ``x`` of the strided network at every ``f``-th element and convolves with a kernel
``k``: ``y[j] = sum_i k[j - f*i] x[i]``. For the image shifted by ``q`` the map holds what the merged map ``z`` holds at
``f*i + q``. The mean of ``y`` over all shifts, each put back in its place, is therefore

    ``y[j] = 1/f sum_m k[j - m] z[m]``

along each axis: the same kernel with stride 1, divided by the factor. Beyond the border the map is continued as the
upsampling continues it: by its last elements (interpolations), or by nothing (transposed convolutions).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.densifying.arguments import Pair

MODES = ("nearest", "nearest-exact", "bilinear", "bicubic")
"""Interpolations whose kernel is the same at every position, with ``align_corners=False``."""

_CUBIC = -0.75
"""PyTorch's coefficient."""


def taps(mode: str, factor: int) -> tuple[list[float], int]:
    """The kernel of an interpolation, divided by its factor, and its first ``d``: ``y[j] = sum_d k[d] z[j - d]``.

    By half-pixel centres, element ``j`` of the output lies at ``(j + 0.5)/f - 0.5`` of the input.
    """
    if mode.startswith("nearest"):
        return [1 / factor] * factor, 0
    weight, reach = (_cubic, 2) if mode == "bicubic" else (_triangle, 1)
    distances = range(-(reach + 1) * factor, (reach + 1) * factor + 1)
    found = {d: weight((d + 0.5) / factor - 0.5) for d in distances if abs((d + 0.5) / factor - 0.5) < reach}
    return [found[d] / factor for d in sorted(found)], min(found)


def _triangle(x: float) -> float:
    return 1 - abs(x)


def _cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    return ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC


class MeanOfShifts(nn.Module):
    """The kernel of an interpolation at stride 1: ``(n, c, H, W) -> (n, c, H, W)``, rows, then columns.

    Args:
        mode: of :data:`MODES`.
        factor: of rows and columns; an axis of factor 1 stays as it is.
        channels: of the map.
        dtype: of the map.
    """

    def __init__(self, mode: str, factor: Pair, channels: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.mode, self.factor = mode, factor
        self.pads: list[tuple[int, int, int, int]] = []
        for axis in (0, 1):
            weights, first = taps(mode, factor[axis])
            last = first + len(weights) - 1
            self.pads.append((0, 0, last, -first) if axis == 0 else (last, -first, 0, 0))
            shape = (1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1)
            # A correlation reads forwards, from the largest distance on.
            kernel = torch.tensor(weights[::-1], dtype=torch.float64).reshape(shape).to(dtype)
            # No part of the state dict: checkpoints stay those of the strided network.
            self.register_buffer(f"kernel{axis}", kernel.repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The map, each element the mean of the upsampled maps of all shifts."""
        for axis in (0, 1):
            if self.factor[axis] > 1:
                kernel = self.get_buffer(f"kernel{axis}")
                x = F.conv2d(F.pad(x, self.pads[axis], mode="replicate"), kernel, groups=kernel.shape[0])
        return x


class MeanOfShuffles(nn.Module):
    """A pixel shuffle by ``f`` at stride 1: ``(n, c*f*f, H, W) -> (n, c, H, W)``.

    Channel ``(c, a, b)`` is what the shuffle puts ``a`` rows and ``b`` columns further on, so the mean over all shifts
    is ``y[c] = 1/f^2 sum_{a,b} z[c, a, b]`` moved by ``(a, b)``.
    """

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """The map, each element the mean of the shuffled maps of all shifts."""
        f, (height, width) = self.factor, x.shape[-2:]
        x = F.pad(x, (f - 1, 0, f - 1, 0), mode="replicate")
        moved = [
            x[:, a * f + b :: f * f, f - 1 - a : f - 1 - a + height, f - 1 - b : f - 1 - b + width]
            for a in range(f)
            for b in range(f)
        ]
        return sum(moved[1:], moved[0]) / (f * f)
