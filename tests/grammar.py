"""Random networks from a grammar: ONNX's operators as PyTorch's layers and functions, inside and outside of levels.

    network  := blocks head
    blocks   := block*
    block    := layer | residual(blocks) | concatenation(blocks, blocks) | level(blocks) | around(blocks)
    level    := split blocks merge, of a window, by layers or by functions
    around   := a layer that halves maps, blocks, a resize to what came in

A block takes ``(n, c, H, W)`` of any size that the windows of its levels divide, and gives ``(n, d, H, W)``.
``STRAYING`` are blocks that look from one entry of the batch to another, or depend on chance: a network with one of
them between a split and its merge must be refused.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.pooling import MergePool2d, SplitPool2d, merge, split

Map = Callable[[Tensor], Tensor]
Make = Callable[[random.Random, int], nn.Module]

WINDOWS = ((2, 2), (2, 2), (1, 2), (2, 1), (3, 1), (3, 2), (1, 1))


class Does(nn.Module):
    """A function of a map as a block."""

    def __init__(self, what: Map) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        return self.what(x)


class Stored(nn.Module):
    """A function of a map and of a stored parameter for each channel."""

    def __init__(self, what: Callable[[Tensor, Tensor], Tensor], channels: int) -> None:
        super().__init__()
        self.what = what
        self.stored = nn.Parameter(torch.randn(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.what(x, self.stored)


class Residual(nn.Module):
    """``x + blocks(x)``, or another operator between the two."""

    def __init__(self, body: nn.Module, join: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.join = body, join

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x, self.body(x))


class Concatenation(nn.Module):
    """Two branches side by side."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


class Level(nn.Module):
    """A split, blocks, and its merge; perhaps with a second branch that is split by the same layer."""

    def __init__(self, window: tuple[int, int], body: nn.Module, *, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.split, self.body, self.shortcut = SplitPool2d(window), body, shortcut
        self.merge = MergePool2d(self.split)

    def forward(self, x: Tensor) -> Tensor:
        inside = self.body(self.split(x))
        if self.shortcut is not None:
            inside = inside + self.split(self.shortcut(x))
        return self.merge(inside)


class FunctionalLevel(nn.Module):
    """The same by functions."""

    def __init__(self, window: tuple[int, int], body: nn.Module) -> None:
        super().__init__()
        self.window, self.body = window, body

    def forward(self, x: Tensor) -> Tensor:
        return merge(self.body(split(x, self.window)), self.window)


class Around(nn.Module):
    """A layer that halves maps, blocks, and a resize to what came in."""

    def __init__(self, smaller: nn.Module, body: nn.Module, mode: str) -> None:
        super().__init__()
        self.smaller, self.body, self.mode = smaller, body, mode

    def forward(self, x: Tensor) -> Tensor:
        inside = self.body(self.smaller(x))
        corners = {} if self.mode == "nearest" else {"align_corners": False}
        return F.interpolate(inside, size=x.shape[-2:], mode=self.mode, **corners)


class Squeeze(nn.Module):
    """Channels scaled by what is seen of a whole map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.conv = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.conv(self.pool(x)))


class ChannelNorm(nn.Module):
    """A layer norm over channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Positions of a map that look at one another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.queries, self.values = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        queries, values = self.queries(x).flatten(2), self.values(x).flatten(2)
        weights = torch.softmax(queries.transpose(1, 2) @ queries / 4, -1)
        return x + (values @ weights.transpose(1, 2)).reshape(x.shape)


class Positions(nn.Module):
    """A ramp along the columns of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.arange(x.shape[-1], device=x.device) / x.shape[-1]


class Expands(nn.Module):
    """A stored value beside every position, expanded to the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.token, self.conv = nn.Parameter(torch.randn(1, 2, 1, 1)), nn.Conv2d(channels + 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        token = self.token.expand(x.shape[0], -1, x.shape[2], x.shape[3])
        return self.conv(torch.cat([x, token], 1))


def _convolution(draw: random.Random, channels: int) -> nn.Module:
    kernel, dilation = (draw.choice((1, 3, 5)), draw.choice((1, 3))), draw.choice((1, 1, 2))
    padding: str | tuple[int, ...] = tuple(dilation * (side - 1) // 2 for side in kernel)
    if draw.random() < 0.2:
        padding = "same"
    groups = draw.choice((1, 1, channels))
    out = channels if groups > 1 else draw.choice((4, 6, 8))
    mode = draw.choice(("zeros", "zeros", "zeros", "reflect", "replicate", "circular"))
    settings = {"padding": padding, "dilation": dilation, "groups": groups, "bias": draw.random() < 0.7}
    return nn.Conv2d(channels, out, kernel, padding_mode=mode, **settings)  # type: ignore[arg-type]


def _padded(draw: random.Random, channels: int) -> nn.Module:
    kinds = (nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)
    return nn.Sequential(draw.choice(kinds)((1, 1, 1, 1)), nn.Conv2d(channels, channels, 3))


def _hooked(_: random.Random, channels: int) -> nn.Module:
    conv = nn.Conv2d(channels, channels, 3)
    conv.register_forward_pre_hook(lambda _, inputs: (F.pad(inputs[0], (1, 1, 1, 1)),))
    return conv


def _transposed(draw: random.Random, channels: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, channels, 3, padding=1, groups=draw.choice((1, channels)))


def _plain(kind: Callable[[], nn.Module]) -> Make:
    return lambda _, channels: kind()


def _of_channels(kind: Callable[[int], nn.Module]) -> Make:
    return lambda _, channels: kind(channels)


def _function(what: Map) -> Make:
    return lambda _, channels: Does(what)


def _of_stored(what: Callable[[Tensor, Tensor], Tensor]) -> Make:
    return lambda _, channels: Stored(what, channels)


def _into_view(x: Tensor) -> Tensor:
    x = x * 1
    x[:, :2].relu_()
    return x


def _alias(x: Tensor) -> Tensor:
    x = x - 0.5
    y = F.relu(x, inplace=True)
    return x + y * 2


def _added(x: Tensor) -> Tensor:
    y = x = x * 2
    y += 1
    return x - 0.1 * y


def _asserted(x: Tensor) -> Tensor:
    assert x.shape[1] >= 1, "no channels"
    assert x.ndim == 4
    return x * 0.5


LAYERS: dict[str, Make] = {
    "convolution": _convolution,
    "padded convolution": _padded,
    "hooked convolution": _hooked,
    "transposed convolution": _transposed,
    "pointwise convolution": lambda draw, channels: nn.Conv2d(channels, draw.choice((4, 6, 8)), 1),
    "weight norm": _of_channels(lambda c: nn.utils.parametrizations.weight_norm(nn.Conv2d(c, c, 3, padding=1))),
    "spectral norm": _of_channels(lambda c: nn.utils.spectral_norm(nn.Conv2d(c, c, 3, padding=1))),
    "batch norm": _of_channels(nn.BatchNorm2d),
    "instance norm": _of_channels(lambda c: nn.InstanceNorm2d(c, affine=True)),
    "group norm": _of_channels(lambda c: nn.GroupNorm(2, c)),
    "layer norm": _of_channels(ChannelNorm),
    "local response norm": _plain(lambda: nn.LocalResponseNorm(3)),
    "ReLU": _plain(nn.ReLU),
    "ReLU in place": _plain(lambda: nn.ReLU(inplace=True)),
    "ReLU6": _plain(nn.ReLU6),
    "LeakyReLU": _plain(lambda: nn.LeakyReLU(0.2)),
    "PReLU": _of_channels(nn.PReLU),
    "ELU": _plain(nn.ELU),
    "CELU": _plain(nn.CELU),
    "SELU": _plain(nn.SELU),
    "GELU": _plain(nn.GELU),
    "tanh GELU": _plain(lambda: nn.GELU("tanh")),
    "SiLU": _plain(nn.SiLU),
    "Mish": _plain(nn.Mish),
    "Hardswish": _plain(nn.Hardswish),
    "Hardsigmoid": _plain(nn.Hardsigmoid),
    "Hardtanh": _plain(nn.Hardtanh),
    "Hardshrink": _plain(lambda: nn.Hardshrink(0.1)),
    "Softshrink": _plain(lambda: nn.Softshrink(0.1)),
    "Tanhshrink": _plain(nn.Tanhshrink),
    "Sigmoid": _plain(nn.Sigmoid),
    "LogSigmoid": _plain(nn.LogSigmoid),
    "Tanh": _plain(nn.Tanh),
    "Softplus": _plain(nn.Softplus),
    "Softsign": _plain(nn.Softsign),
    "Threshold": _plain(lambda: nn.Threshold(0.1, 0.2)),
    "GLU": _of_channels(lambda c: nn.Sequential(nn.Conv2d(c, 2 * c, 1), nn.GLU(1))),
    "Softmax": _plain(lambda: nn.Softmax(1)),
    "Softmax2d": _plain(nn.Softmax2d),
    "LogSoftmax": _plain(lambda: nn.LogSoftmax(1)),
    "Softmin": _plain(lambda: nn.Softmin(1)),
    "softmax over columns": _plain(lambda: nn.Softmax(3)),
    "Dropout": _plain(nn.Dropout),
    "Identity": _plain(nn.Identity),
    "average pool": _plain(lambda: nn.AvgPool2d(3, 1, 1)),
    "average pool without padding": _plain(lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
    "max pool": _plain(lambda: nn.MaxPool2d(3, 1, 1)),
    "dilated max pool": _plain(lambda: nn.Sequential(nn.ReplicationPad2d(2), nn.MaxPool2d(3, 1, dilation=2))),
    "squeeze": _of_channels(Squeeze),
    "attention": _of_channels(Attention),
    "positions": _plain(Positions),
    "expand": _of_channels(Expands),
    "channel shuffle": _plain(lambda: nn.ChannelShuffle(2)),
    "upsample and pool": _plain(lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.AvgPool2d(2))),
    "shuffled pixels": _of_channels(
        lambda c: nn.Sequential(nn.Conv2d(c, 4 * c, 1), nn.PixelShuffle(2), nn.MaxPool2d(2))
    ),
    "flatten": _function(lambda x: x.flatten(2).unflatten(2, x.shape[-2:])),
    "abs": _function(torch.abs),
    "exp": _function(lambda x: torch.exp(x.clamp(-3, 1))),
    "log": _function(lambda x: torch.log(x.abs() + 1)),
    "sqrt": _function(lambda x: torch.sqrt(x.abs() + 0.1)),
    "reciprocal square root": _function(lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-3)),
    "power": _function(lambda x: x**2 - x),
    "sine": _function(lambda x: torch.sin(x) + torch.cos(x)),
    "clamp": _function(lambda x: x.clamp(min=-0.5, max=1.5)),
    "round": _function(lambda x: x + torch.sign(x) * 0.25),
    "where": _function(lambda x: torch.where(x > 0, x, 0.3 * x)),
    "less": _function(lambda x: x * (x < 0.5)),
    "maximum": _function(lambda x: torch.maximum(x, 0.1 - x)),
    "minimum": _of_stored(torch.minimum),
    "scale": _of_stored(torch.mul),
    "bias": _of_stored(torch.add),
    "quotient": _of_stored(lambda x, stored: x / (1 + stored.abs())),
    "normalize": _function(lambda x: F.normalize(x, dim=1, eps=1e-3)),
    "centred": _function(lambda x: x - x.mean((2, 3), keepdim=True)),
    "largest in a map": _function(lambda x: x - x.amax((2, 3), keepdim=True)),
    "sum of channels": _function(lambda x: x + x.sum(1, keepdim=True) * 0.1),
    "cumulated": _function(lambda x: torch.cumsum(x, 1) * 0.3),
    "chunks": _function(lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)),
    "stacked": _function(lambda x: torch.stack([x, x.relu()], 2).mean(2)),
    "rolled": _function(lambda x: torch.roll(x, 1, 3)),
    "flipped": _function(lambda x: torch.flip(x, (2,))),
    "shifted": _function(lambda x: F.pad(x, (1, 0, 0, 0))[..., :-1]),
    "transposed twice": _function(lambda x: (x.transpose(2, 3) * 2).transpose(2, 3)),
    "einsum": _function(lambda x: torch.einsum("nchw,ndhw->nchw", x, x.tanh()) * 0.1),
    "largest channel": _function(lambda x: x + x.argmax(1, keepdim=True) * 0.1),
    "multiplied in place": _function(lambda x: (x * 1).mul_(0.7).add_(0.1)),
    "written into a view": _function(_into_view),
    "in place, and read again": _function(_alias),
    "added in place": _function(_added),
    "input in place": _function(lambda x: x.sub_(0.1)),
    "asserted": _function(_asserted),
    "normed stand-in": _of_channels(lambda c: nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(inplace=True))),
}
"""Blocks of one layer; each keeps the size of a map."""

STRAYING: dict[str, Make] = {
    "mean over the batch": _function(lambda x: x - x.mean(0, keepdim=True)),
    "norm without statistics": _of_channels(lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
    "largest of all": _function(lambda x: x / (1 + x.abs().max())),
    "rolled over the batch": _function(lambda x: torch.roll(x, 1, 0)),
    "flipped over the batch": _function(lambda x: x + x.flip(0)),
    "dropout at inference": _function(lambda x: F.dropout(x, 0.3, training=True)),
    "noise": _function(lambda x: x + torch.rand_like(x)),
}

_JOINS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (torch.add, torch.sub, torch.maximum, lambda x, y: x * 0.5 + y)
_HALVING: tuple[Make, ...] = (
    _plain(lambda: nn.MaxPool2d(2, ceil_mode=True)),
    _plain(lambda: nn.AvgPool2d(2, ceil_mode=True)),
    _of_channels(lambda c: nn.Conv2d(c, c, 3, stride=2, padding=1)),
)


class GrammarNetwork(nn.Module):
    """The network of a seed.

    Args:
        seed: of its structure and its parameters.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.used: list[str] = []
        """The names of its layers, in the order in which they were drawn."""
        self.strays = draw.random() < 0.1
        """Whether one block looks beyond its entry of the batch, or depends on chance."""
        body, channels = self._blocks(draw, 3, depth=0, ends=draw.random() < 0.7)
        self.body, self.head = body, nn.Conv2d(channels, draw.randint(2, 5), 1)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def _blocks(self, draw: random.Random, channels: int, depth: int, *, ends: bool) -> tuple[nn.Module, int]:
        """A few blocks, the last a level where one ends them: then a loop can walk it."""
        blocks: list[nn.Module] = []
        if depth == 0 or channels % 2:
            blocks.append(nn.Conv2d(channels, 4, 3, padding=1))
            channels = 4
        for _ in range(draw.randint(0 if ends else 1, 3)):
            block, channels = self._block(draw, channels, depth)
            blocks.append(block)
        if ends and depth < 3:
            block, channels = self._level(draw, channels, depth, ends=draw.random() < 0.6)
            blocks.append(block)
        return nn.Sequential(*blocks), channels

    def _block(self, draw: random.Random, channels: int, depth: int) -> tuple[nn.Module, int]:
        kind = draw.random()
        if depth < 3 and kind < 0.08:
            body, inside = self._blocks(draw, channels, depth + 1, ends=False)
            back = nn.Conv2d(inside, channels, 1)
            return Residual(nn.Sequential(body, back), draw.choice(_JOINS)), channels
        if depth < 3 and kind < 0.14:
            left, first = self._blocks(draw, channels, depth + 1, ends=False)
            right, second = self._blocks(draw, channels, depth + 1, ends=False)
            return Concatenation(left, right), first + second
        if depth < 3 and kind < 0.2:
            return self._level(draw, channels, depth, ends=False)
        if depth < 3 and kind < 0.24:
            body, inside = self._blocks(draw, channels, depth + 1, ends=False)
            return Around(draw.choice(_HALVING)(draw, channels), body, draw.choice(("nearest", "bilinear"))), inside
        straying = self.strays and depth > 0 and draw.random() < 0.4
        table = STRAYING if straying else LAYERS
        name = draw.choice(list(table))
        self.used.append(name)
        layer = table[name](draw, channels)
        return layer, layer(torch.zeros(2, channels, 12, 12)).shape[1]

    def _level(self, draw: random.Random, channels: int, depth: int, *, ends: bool) -> tuple[nn.Module, int]:
        window = draw.choice(WINDOWS)
        body, inside = self._blocks(draw, channels, depth + 1, ends=ends)
        if draw.random() < 0.25:
            return FunctionalLevel(window, body), inside
        shortcut = nn.Conv2d(channels, inside, 1) if draw.random() < 0.3 else None
        return Level(window, body, shortcut=shortcut), inside
