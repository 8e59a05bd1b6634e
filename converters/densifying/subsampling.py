"""Layers that leave rows and columns out, at stride 1.

A layer of kernel ``k``, dilation ``d``, stride ``s`` and ``p`` rows of padding before reads, for its output ``i``, rows
``s*i - p`` to ``s*i - p + d*(k - 1)``. The same layer with stride 1 gives, at ``j = s*i + q``, what the strided one
gives at ``i`` for the image shifted by ``q`` rows. So it is computed for ``j = 0 ... s*o - 1``, where the strided layer
has ``o`` rows: with ``p`` rows of padding before as it was, and

    ``s*o - 1 - p + d*(k - 1) - (H - 1)``

after, of a map of ``H`` rows; negative, rows are left out. That holds for any kernel, padding and size, ``ceil_mode``
included, and a split by ``s`` follows. Columns likewise.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.densifying.arguments import Call, Pair
from converters.densifying.places import Place, windows_of
from converters.densifying.writing import Writer, with_settings
from engines.errors import NetworkError
from engines.schedules.phases import Size

SUBSAMPLING = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d)
"""Kinds of layers that may have a stride."""

_Padding = tuple[int, int, int, int]
"""Left, right, top, bottom, as :func:`torch.nn.functional.pad` takes it."""


@dataclass(frozen=True)
class Subsampling:
    """A strided layer that becomes one of stride 1 and a split."""

    call: Call
    place: Place
    """Of what it is given."""
    stride: Pair
    before: Pair
    """Rows and columns of padding before."""
    after: Pair
    """After; negative where rows or columns are left out."""
    ends: Pair
    """Rows and columns, from the end of the map on, that the strided layer counts as its padding after."""

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """The layer of stride 1 and its split."""
        source = writer[self.call.source]
        dense = _WRITERS[self.call.kind](self, writer, node, source)
        return writer.split(dense, self.place.stack, windows_of(self.stride))

    def described(self) -> str:
        """What is done."""
        return f"stride 1, then {split_by(self.stride)}"

    @property
    def kernel(self) -> Pair:
        """Rows and columns that it reads, of those that its dilation leaves."""
        return self.call.pair("kernel_size")

    @property
    def is_even(self) -> bool:
        """Whether there is as much padding after as before."""
        return self.before == self.after


@dataclass(frozen=True)
class PlainSplit:
    """A max pool that the paper replaces by a split: another function, without the maximum."""

    call: Call
    place: Place
    stride: Pair
    size: Size
    """Of what the pool gives."""
    padded: Size
    """Of what it is given."""

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """The split alone."""
        rows, columns = (self.stride[axis] * self.size[axis] - self.padded[axis] for axis in (0, 1))
        source = padded(writer, writer[self.call.source], (0, columns, 0, rows))
        return writer.split(source, self.place.stack, windows_of(self.stride))

    def described(self) -> str:
        """What is done."""
        return f"{split_by(self.stride)} in its place, another function"

    def strided(self, x: Tensor) -> Tensor:
        """What the strided network computes in its place."""
        (h, w), (rows, columns) = self.stride, self.size
        return x[..., ::h, ::w][..., :rows, :columns]


@dataclass(frozen=True)
class Sampling:
    """Every ``s``-th row and column taken: by a slice with a step, or by a resize to the nearest."""

    source: fx.Node
    place: Place
    stride: Pair
    start: Pair
    size: Size
    """Of what is taken."""
    given: Size
    """Of what it is taken from."""

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """The split of the map from the first row and column on."""
        extra = [self.stride[axis] * self.size[axis] - self.given[axis] + self.start[axis] for axis in (0, 1)]
        source = padded(writer, writer[self.source], (-self.start[1], extra[1], -self.start[0], extra[0]))
        return writer.split(source, self.place.stack, windows_of(self.stride))

    def described(self) -> str:
        """What is done."""
        return split_by(self.stride)


@dataclass(frozen=True)
class Unshuffling:
    """A pixel unshuffle: the shifted maps as channels, then a split."""

    source: fx.Node
    place: Place
    stride: Pair

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """Shifted maps and their split."""
        dense = writer.add("shifted", ShiftedChannels(self.stride[0]), writer[self.source])
        return writer.split(dense, self.place.stack, windows_of(self.stride))

    def described(self) -> str:
        """What is done."""
        return f"shifted maps as channels, then {split_by(self.stride)}"


def subsampling_of(call: Call, name: str, place: Place, given: Size, made: Size) -> Subsampling:
    """How a strided layer becomes dense.

    Args:
        call: of a kind of :data:`SUBSAMPLING`, with a stride.
        name: of the layer, for messages.
        place: of what it is given.
        given: its rows and columns.
        made: those of what it gives.

    Raises :class:`NetworkError` for what has no form of stride 1.
    """
    if call.settings.get("return_indices"):
        raise NetworkError(f"{name} gives the places of its maxima, which are other ones at stride 1: use a plain pool")
    stride, kernel = call.pair("stride"), call.pair("kernel_size")
    # A stride goes with no padding in words, and an LP pool has none.
    before = (0, 0) if call.settings.get("padding", "valid") == "valid" else call.pair("padding")
    dilation = call.pair("dilation") if "dilation" in call.settings else (1, 1)
    reach = [dilation[axis] * (kernel[axis] - 1) for axis in (0, 1)]
    rows, columns = (stride[axis] * made[axis] + reach[axis] - before[axis] - given[axis] for axis in (0, 1))
    if call.kind is nn.LPPool2d and call.settings["ceil_mode"]:
        cut = [stride[axis] * (made[axis] - 1) + kernel[axis] > given[axis] for axis in (0, 1)]
        if any(cut):
            raise NetworkError(f"{name} counts fewer elements at the border, by its ceil_mode: leave that out")
    return Subsampling(call, place, stride, before, (rows, columns), before)


def split_by(stride: Pair) -> str:
    """Words for a split by a stride."""
    return "split by " + ", ".join(f"{h}x{w}" for h, w in windows_of(stride))


def padded(writer: Writer, node: fx.Node, padding: _Padding, mode: str = "constant", value: float = 0.0) -> fx.Node:
    """A map with rows and columns added, or left out where the padding is negative."""
    left, right, top, bottom = padding
    if min(padding) < 0:
        cut = (
            slice(None),
            slice(None),
            slice(max(-top, 0) or None, min(bottom, 0) or None),
            slice(max(-left, 0) or None, min(right, 0) or None),
        )
        node = writer.call(operator.getitem, node, cut)
    added = tuple(max(side, 0) for side in padding)
    if not any(added):
        return node
    if mode == "constant":
        return writer.call(F.pad, node, added, "constant", value)
    return writer.call(F.pad, node, added, mode)


def _written_conv(layer: Subsampling, writer: Writer, node: fx.Node, source: fx.Node) -> fx.Node:
    settings = layer.call.settings
    mode = settings["padding_mode"]
    inside: Pair = layer.before if layer.is_even and mode == "zeros" else (0, 0)
    if not layer.is_even or mode != "zeros":
        (top, left), (bottom, right) = layer.before, layer.after
        source = padded(writer, source, (left, right, top, bottom), "constant" if mode == "zeros" else mode)
    if node.op == "call_module":
        changed = {"stride": (1, 1), "padding": inside, "padding_mode": "zeros"}
        return writer.layer(node, ("conv", inside), lambda conv: with_settings(conv, **changed), source)
    given = dict(zip(("input", "weight", "bias"), node.args, strict=False)) | dict(node.kwargs)
    weight, bias = (writer.argument(given.get(name)) for name in ("weight", "bias"))
    return writer.call(F.conv2d, source, weight, bias, 1, inside, layer.call.pair("dilation"), settings["groups"])


def _written_max_pool(layer: Subsampling, writer: Writer, node: fx.Node, source: fx.Node) -> fx.Node:
    inside = layer.before if layer.is_even else (0, 0)
    if not layer.is_even:
        (top, left), (bottom, right) = layer.before, layer.after
        source = padded(writer, source, (left, right, top, bottom), value=float("-inf"))
    changed = {"stride": 1, "padding": inside, "ceil_mode": False}
    if node.op == "call_module":
        return writer.layer(node, ("pool", inside), lambda pool: with_settings(pool, **changed), source)
    return writer.call(F.max_pool2d, source, layer.kernel, 1, inside, layer.call.pair("dilation"))


def _written_average(layer: Subsampling, writer: Writer, node: fx.Node, source: fx.Node) -> fx.Node:
    settings = layer.call.settings
    divisor, counts_padding = settings["divisor_override"], settings["count_include_pad"]
    if layer.is_even and divisor is None and (counts_padding or node.op == "call_module"):
        changed = {"stride": 1, "padding": layer.before, "ceil_mode": False}
        if node.op == "call_module":
            return writer.layer(node, ("pool", layer.before), lambda pool: with_settings(pool, **changed), source)
        return writer.call(F.avg_pool2d, source, layer.kernel, 1, layer.before)
    ends = layer.ends if counts_padding else (0, 0)
    pool = CountingAverage(layer.kernel, layer.before, layer.after, ends, divisor)
    if node.op == "call_module":
        form = ("average", layer.before, layer.after)
        return writer.layer(node, form, lambda _: pool, source)
    return writer.add("average", pool, source)


def _written_lp_pool(layer: Subsampling, writer: Writer, node: fx.Node, source: fx.Node) -> fx.Node:
    bottom, right = layer.after
    source = padded(writer, source, (0, right, 0, bottom))
    if node.op == "call_module":
        changed = {"stride": 1, "ceil_mode": False}
        return writer.layer(node, "pool", lambda pool: with_settings(pool, **changed), source)
    return writer.call(F.lp_pool2d, source, layer.call.settings["norm_type"], layer.kernel, 1)


_WRITERS: dict[type[nn.Module], Callable[[Subsampling, Writer, fx.Node, fx.Node], fx.Node]] = {
    nn.Conv2d: _written_conv,
    nn.MaxPool2d: _written_max_pool,
    nn.AvgPool2d: _written_average,
    nn.LPPool2d: _written_lp_pool,
}


class CountingAverage(nn.Module):
    """A mean at stride 1 over the elements that its window has, ``(n, c, H, W) -> (n, c, H', W')``.

    Args:
        kernel: of the window.
        before: rows and columns of zeros before the map.
        after: after it; negative where some are left out.
        ends: how many of the zeros, before and after, count as elements.
        divisor: what the sum is divided by instead.
    """

    def __init__(self, kernel: Pair, before: Pair, after: Pair, ends: Pair, divisor: int | None) -> None:
        super().__init__()
        self.kernel, self.before, self.after, self.ends, self.divisor = kernel, before, after, ends, divisor

    def forward(self, x: Tensor) -> Tensor:
        """The means."""
        area = self.kernel[0] * self.kernel[1]
        mean = F.avg_pool2d(self._padded(x, self.before, self.after), self.kernel, 1)
        if self.divisor is not None:
            return mean * (area / self.divisor)
        (top, left), (bottom, right) = self.ends, self.ends
        ones = F.pad(torch.ones_like(x[:1, :1]), (left, right, top, bottom), value=1.0)
        before = (self.before[0] - top, self.before[1] - left)
        after = (self.after[0] - bottom, self.after[1] - right)
        # A window beyond the border, of a shift alone, has none.
        return mean / F.avg_pool2d(self._padded(ones, before, after), self.kernel, 1).clamp_min(1 / area)

    @staticmethod
    def _padded(x: Tensor, before: Pair, after: Pair) -> Tensor:
        x = F.pad(x, (before[1], max(after[1], 0), before[0], max(after[0], 0)))
        return x[..., : min(after[0], 0) or None, : min(after[1], 0) or None]


class ShiftedChannels(nn.Module):
    """A pixel unshuffle by ``f`` at stride 1, ``(n, c, H, W) -> (n, c*f*f, H, W)``; beyond the border are zeros."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Channel ``(c, a, b)`` is the map ``a`` rows and ``b`` columns further on."""
        f, (height, width) = self.factor, x.shape[-2:]
        x = F.pad(x, (0, f - 1, 0, f - 1))
        moved = [x[..., a : a + height, b : b + width] for a in range(f) for b in range(f)]
        return torch.stack(moved, 2).flatten(1, 2)
