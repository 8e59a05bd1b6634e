"""Shrink-Expand training (section 3.2) without the elements that are thrown away.

In training an SMP network keeps one element of every window. What the layer before a shrink computes for the
other elements reaches neither the loss nor the gradient, so the convolutions that precede a shrink are taken
at the sampled elements alone: a convolution with stride 1, padding ``p`` and a shrink at offset ``(r, c)`` of a
2x2 window equal the zero-padded input, cut at ``(r, c)`` and convolved with stride 2. Two shrinks in a row,
as after ``conv1``, are one of 4x4. Logits and gradients are those of the network itself; only the batch
statistics of the batch norms between such a convolution and its shrink differ: they are taken over the sampled
elements, an unbiased sample of the ones the network would take.

The last ``dense_levels`` splits may stay splits. Each of them gives four times the supervised pixels, for the
cost of the layers behind it alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.networks import SMP
from converters.networks.resnet import BasicBlock, Bottleneck
from converters.pooling import Offset, nested_phase, split
from engines.errors import InputError

LEVELS = 5
_WINDOW = (2, 2)


@dataclass(frozen=True)
class Sampling:
    """Where one training step samples: the offsets of the shrunk levels, outermost first.

    The remaining ``LEVELS - len(offsets)`` levels are split, so that nothing of them is lost. At least two
    levels are shrunk: the first two have no convolution between them and are sampled as one.
    """

    offsets: tuple[Offset, ...]

    def __post_init__(self) -> None:
        if not 2 <= len(self.offsets) <= LEVELS:
            raise InputError(f"2 to {LEVELS} levels are shrunk in training; received {len(self.offsets)} offsets")

    @property
    def dense_levels(self) -> int:
        """How many of the last levels are split."""
        return LEVELS - len(self.offsets)

    def shrinks(self, level: int) -> bool:
        """Whether the split that begins ``level`` (1 to 5) is shrunk."""
        return level <= len(self.offsets)


def draw_sampling(dense_levels: int, generator: torch.Generator | None = None) -> Sampling:
    """Uniformly drawn offsets for all levels but the last ``dense_levels`` (0 to 3)."""
    if not 0 <= dense_levels <= LEVELS - 2:
        raise InputError(f"dense levels are 0 to {LEVELS - 2}; received {dense_levels}")
    drawn = torch.randint(2, (LEVELS - dense_levels, 2), generator=generator).tolist()
    return Sampling(tuple((int(row), int(column)) for row, column in drawn))


def sampled_logits(network: SMP, x: Tensor, sampling: Sampling) -> Tensor:
    """Logits of ``x (n, 3, H, W)`` at the sampled elements: ``(n * 4**dense_levels, classes, H/32, W/32)``.

    Their order is that of :func:`sampled_labels`. The network's own mode decides what its batch norms do.
    """
    window, offset = nested_phase([_WINDOW] * 2, list(sampling.offsets[:2]))
    x = network.relu(network.bn1(_strided(network.conv1, x, window[0], offset)))
    x = network.layer1(x)
    for level, layer in ((3, network.layer2), (4, network.layer3), (5, network.layer4)):
        offset_here = sampling.offsets[level - 1] if sampling.shrinks(level) else None
        x = _layer(layer, x, offset_here)
    return network.head(x)  # type: ignore[no-any-return]


def sampled_labels(labels: Tensor, sampling: Sampling) -> Tensor:
    """The labels ``(n, H, W)`` at the sampled elements: ``(n * 4**dense_levels, H/32, W/32)``, same dtype."""
    (h, w), (row, column) = nested_phase([_WINDOW] * len(sampling.offsets), list(sampling.offsets))
    sampled = labels[:, None, row::h, column::w]
    for _ in range(sampling.dense_levels):
        sampled = split(sampled, _WINDOW)
    return sampled[:, 0]


def _layer(layer: Iterable[nn.Module], x: Tensor, offset: Offset | None) -> Tensor:
    for block in layer:
        if offset is None or getattr(block, "split", None) is None:
            x = _split_block(block, x)
        elif isinstance(block, BasicBlock):
            out = block.bn1(_strided(block.conv1, x, 2, offset))
            out = block.bn2(block.conv2(block.relu(out)))
            x = block.relu(out + _shortcut(block, x, offset))
        elif isinstance(block, Bottleneck):
            out = block.relu(block.bn1(block.conv1(x)))
            out = block.bn2(_strided(block.conv2, out, 2, offset))
            out = block.bn3(block.conv3(block.relu(out)))
            x = block.relu(out + _shortcut(block, x, offset))
        else:
            raise InputError(f"shrink-expand training knows no block of type {type(block).__name__}")
    return x


def _split_block(block: nn.Module, x: Tensor) -> Tensor:
    """The block with its split as a split, in training mode too, where the layer itself would shrink."""
    layer = getattr(block, "split", None)
    if layer is None or not layer.training:
        return block(x)  # type: ignore[no-any-return]
    layer.eval()
    try:
        return block(x)  # type: ignore[no-any-return]
    finally:
        layer.train()


def _shortcut(block: BasicBlock | Bottleneck, x: Tensor, offset: Offset) -> Tensor:
    assert block.downsample is not None  # a block that splits changes the level, so its shortcut does too
    conv, norm = block.downsample[0], block.downsample[1]
    assert isinstance(conv, nn.Conv2d)
    return norm(_strided(conv, x, 2, offset))  # type: ignore[no-any-return]


def _strided(conv: nn.Conv2d, x: Tensor, stride: int, offset: Offset) -> Tensor:
    """``shrink(conv(x), stride, offset)`` for a convolution of stride 1, by a convolution of that stride."""
    (pad_h, pad_w), (kernel_h, kernel_w) = _pair(conv.padding), _pair(conv.kernel_size)
    rows, columns = x.shape[-2] // stride, x.shape[-1] // stride
    row, column = offset
    padded = F.pad(x, (pad_w, pad_w, pad_h, pad_h)) if pad_h or pad_w else x
    cut = padded[:, :, row : row + (rows - 1) * stride + kernel_h, column : column + (columns - 1) * stride + kernel_w]
    return F.conv2d(cut, conv.weight, conv.bias, stride=stride)


def _pair(value: object) -> tuple[int, int]:
    assert isinstance(value, tuple)
    return int(value[0]), int(value[1])
