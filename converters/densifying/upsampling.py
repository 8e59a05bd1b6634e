"""Layers that bring a map back to more rows and columns, in the dense network.

There each element is computed already: the split batches are merged, and what is left of the upsampling is its kernel
(:mod:`converters.densifying.kernels`), or nothing.
"""

from __future__ import annotations

import enum
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.densifying.arguments import Call, Pair
from converters.densifying.kernels import MODES, MeanOfShifts, MeanOfShuffles
from converters.densifying.places import Place, Stack, factor_of
from converters.densifying.writing import Writer, with_settings
from engines.errors import NetworkError
from engines.schedules.phases import Size

INTERPOLATIONS = (nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d)
LEARNED = (nn.ConvTranspose2d, nn.PixelShuffle)
"""Kinds of upsamplings with channels of their own, which no merge alone can stand for."""


class Upsampling(enum.Enum):
    """What an interpolation to a shallower level becomes."""

    KERNEL = "kernel"
    """Merges, then its kernel at stride 1: the mean of what the strided network gives for all shifts."""
    MERGE = "merge"
    """Merges alone, the paper's form."""


@dataclass(frozen=True)
class Merging:
    """An interpolation that becomes merges, with its kernel or without."""

    source: fx.Node
    stack: Stack
    target: Stack
    kernel: str | None
    """The interpolation's mode, or ``None`` for merges alone."""
    channels: int
    dtype: torch.dtype
    within: bool = False
    """Whether the map is resized to its own level's rows and columns first, since it is pooled or strided inside it."""

    @property
    def factor(self) -> Pair:
        """Of the merges."""
        return factor_of(self.stack, self.target)

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """The merges, and the kernel."""
        source = writer[self.source]
        if self.within:
            source = _resized_within(writer, node, source, self.factor)
        merged = writer.merge(source, self.stack, self.target)
        if self.kernel is None:
            return merged
        return writer.add("mean", MeanOfShifts(self.kernel, self.factor, self.channels, self.dtype), merged)

    def described(self) -> str:
        """What is done."""
        kernel = (
            "" if self.kernel is None else f", then its kernel at stride 1 ({self.kernel} by {_times(self.factor)})"
        )
        return f"{'resized inside its level, then ' if self.within else ''}{_merged(self.factor)}{kernel}"


@dataclass(frozen=True)
class Transposing:
    """A transposed convolution of stride ``s``: merges, then the same one with stride 1, divided by ``s*s``.

    With ``p`` rows of padding, ``y[j] = 1/s sum_t w[t] z[j + p - d*t]`` for as many ``j`` as the map has rows: the
    transposed convolution of stride 1 with padding ``p`` has ``d*(k - 1) - 2p`` rows more, which are cut off.
    """

    call: Call
    stack: Stack
    target: Stack

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """Merges, and the layer at stride 1. The input is divided, so that the weights stay the checkpoint's."""
        stride, padding = self.call.pair("stride"), self.call.pair("padding")
        merged = writer.merge(writer[self.call.source], self.stack, self.target)
        merged = writer.call(operator.mul, merged, 1 / (stride[0] * stride[1]))
        dilation, kernel = self.call.pair("dilation"), self.call.pair("kernel_size")
        if node.op == "call_module":
            changed = {"stride": (1, 1), "output_padding": (0, 0)}
            dense = writer.layer(node, "transposed", lambda layer: with_settings(layer, **changed), merged)
        else:
            given = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | dict(node.kwargs)
            weight, bias = (writer.argument(given.get(name)) for name in ("weight", "bias"))
            groups = self.call.settings["groups"]
            dense = writer.call(F.conv_transpose2d, merged, weight, bias, 1, padding, 0, groups, dilation)
        rows, columns = (dilation[axis] * (kernel[axis] - 1) - 2 * padding[axis] for axis in (0, 1))
        if rows or columns:
            cut = (slice(None), slice(None), slice(None, -rows or None), slice(None, -columns or None))
            dense = writer.call(operator.getitem, dense, cut)
        return dense

    def described(self) -> str:
        """What is done."""
        return f"{_merged(self.call.pair('stride'))}, then the same at stride 1, divided by the factor"


@dataclass(frozen=True)
class Shuffling:
    """A pixel shuffle: merges, then the mean of what it does for all shifts."""

    source: fx.Node
    factor: int
    stack: Stack
    target: Stack

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """Merges and the mean."""
        merged = writer.merge(writer[self.source], self.stack, self.target)
        return writer.add("shuffle", MeanOfShuffles(self.factor), merged)

    def described(self) -> str:
        """What is done."""
        return f"{_merged((self.factor, self.factor))}, then the mean of the shuffled maps"


def kernel_of(call: Call, name: str, upsampling: Upsampling | None) -> str | None:
    """The kernel that an interpolation leaves, or ``None`` where merges alone take its place.

    By default it is its own, where it has one. Raises :class:`NetworkError` where the kernel is asked for and it has
    none.
    """
    if upsampling is Upsampling.MERGE:
        return None
    mode, corners = str(call.settings["mode"]), bool(call.settings["align_corners"])
    if mode in MODES and not corners:
        return mode
    if upsampling is Upsampling.KERNEL:
        why = "aligned corners, whose kernel is another one at every position" if corners else f"mode {mode!r}"
        raise NetworkError(f'{name} interpolates with {why}: it has no kernel at stride 1, choose upsampling="merge"')
    return None


def target_of(place: Place, given: Size, made: Size) -> Stack | None:
    """The level whose map a map of another one becomes by an upsampling; ``None`` where there is none."""
    for depth in range(len(place.stack), -1, -1):
        rows, columns = factor_of(place.stack, place.stack[:depth])
        if (given[0] * rows, given[1] * columns) == made:
            return place.stack[:depth]
    return None


def _merged(factor: Pair) -> str:
    return f"merged by {_times(factor)}"


def _times(factor: Pair) -> str:
    return f"{factor[0]}x{factor[1]}"


def _resized_within(writer: Writer, node: fx.Node, source: fx.Node, factor: Pair) -> fx.Node:
    """The same interpolation, to a size that is smaller by the factor of the merges that follow."""
    layer: Any = writer.root.get_submodule(str(node.target)) if node.op == "call_module" else None
    if layer is not None:
        size, scale = layer.size, layer.scale_factor
        mode, corners = layer.mode, layer.align_corners
    else:
        names = ("input", "size", "scale_factor", "mode", "align_corners")
        given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
        size, scale = writer.argument(given.get("size")), given.get("scale_factor")
        mode, corners = given.get("mode", "nearest"), given.get("align_corners")
    if size is not None:
        size = tuple(_divided(writer, _side(writer, size, axis), factor[axis]) for axis in (0, 1))
    else:
        pair = scale if isinstance(scale, (tuple, list)) else (scale, scale)
        scale = tuple(float(side) / factor[axis] for axis, side in enumerate(pair))
    return writer.call(F.interpolate, source, size, scale, mode, corners)


def _side(writer: Writer, size: Any, axis: int) -> Any:
    if isinstance(size, fx.Node):
        return writer.call(operator.getitem, size, axis)
    return size[axis] if isinstance(size, (tuple, list)) else size


def _divided(writer: Writer, side: Any, factor: int) -> Any:
    return writer.call(operator.floordiv, side, factor) if isinstance(side, fx.Node) else side // factor
