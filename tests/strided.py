"""Ordinary strided networks for tests, random ones, and the oracle: the strided network itself, on shifted images."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

Size = tuple[int, int]


def with_values(network: nn.Module, seed: int = 0) -> nn.Module:
    """Seeded parameters and statistics that are far from the identity, in float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.normal_(0, 0.3, generator=generator)
            if name.endswith("weight") and parameter.ndim == 4:
                parameter.mul_(2 / parameter[0].numel() ** 0.5)
    return network.double().eval()


def noise(size: Size, seed: int = 1) -> Tensor:
    """``(1, 3, H, W)`` float64."""
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shifted(
    function: Callable[[Tensor], Tensor], big: Tensor, margin: Size, size: Size, phase: Size
) -> tuple[Tensor, Tensor]:
    """What a strided network gives for a part of ``big``, shifted by a phase, and where no border is in sight.

    The second is true where the same network, on all of ``big``, computes the same: nothing there has seen the border
    of the part. ``margin`` is a multiple of the strides.
    """
    (top, left), (height, width), (row, column) = margin, size, phase
    rows, columns = slice(top + row, top + row + height), slice(left + column, left + column + width)
    given = function(big[..., rows, columns])
    stride = (height // given.shape[2], width // given.shape[3])
    i, j = top // stride[0], left // stride[1]
    same = torch.ones(given.shape[2:], dtype=torch.bool)
    # Maxima and ReLUs hide what they do not take, so the surroundings are of several kinds.
    for surroundings in (big, 50 + 50 * big.abs(), -50 - 50 * big.abs()):
        around = surroundings.clone()
        around[..., rows, columns] = big[..., rows, columns]
        whole = function(around[..., row:, column:][..., : big.shape[2] - top, : big.shape[3] - left])
        beside = whole[..., i : i + given.shape[2], j : j + given.shape[3]]
        same &= ((given - beside).abs() <= 1e-9 * given.abs().max()).all(1)[0]
    # One more position on every side: the dense network's border lies up to a stride further on.
    eroded = -F.max_pool2d(-F.pad(same[None, None].double(), (1, 1, 1, 1)), 3, 1)[0, 0]
    return given, eroded > 0.5


def relative(actual: Tensor, expected: Tensor) -> float:
    """The largest difference by the largest value."""
    return float((actual - expected).abs().max() / expected.abs().max())


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))
        return x * torch.sigmoid(self.expand(gate))


class Residual(nn.Module):
    """A block whose main branch and shortcut have the stride."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(out), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.conv2(self.relu(self.bn1(self.conv1(x)))) + self.shortcut(x))


class Function(nn.Module):
    """A function in the place of a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class RandomStrided(nn.Module):
    """Layers at random, two to four of them strided, and a head of the last one's level.

    Every stride has a padding with which it divides the size; kernels, dilations, paddings, groups, and the ways to
    write it are drawn.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.draw = draw = random.Random(seed)
        self.stride = [1, 1]
        self.is_local = True
        channels, layers, strides = 3, [], draw.choice([1, 2, 2, 3])
        while strides:
            kind = draw.choice(
                ["conv", "pool", "pool", "strided", "strided", "strided", "block", "norm", "norm", "gate", "function"]
            )
            if kind == "conv":
                layers += [nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU()]
                channels = 4
            elif kind == "norm":
                layers.append(draw.choice([nn.BatchNorm2d(channels)] * 3 + [nn.GroupNorm(1, channels)]))
                self.is_local &= not isinstance(layers[-1], nn.GroupNorm)
            elif kind == "gate":
                layers.append(SqueezeExcitation(channels))
                self.is_local = False
            else:
                strides -= 1
                made, channels = self._strided(kind, channels)
                layers += made
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(channels, 2, 1)
        # Closures cannot be copied with the drawing in them.
        del self.draw

    def _strided(self, kind: str, channels: int) -> tuple[list[nn.Module], int]:
        draw = self.draw
        stride = draw.choice([(2, 2), (2, 2), (2, 2), (3, 2), (1, 2), (4, 4)])
        if kind == "block":
            self._count((2, 2))
            return [Residual(channels, 4, 2)], 4
        kernel, dilation = [], []
        for side in stride:
            # Without a stride, an even kernel would have no padding that keeps the size.
            kernel.append(draw.randint(max(1, side - 1), max(4, side)) if side > 1 else draw.choice([1, 3]))
            dilation.append(1 if kind == "pool" else draw.choice([1, 1, 2]))
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        least = [max(0, -(-(r + 1 - s) // 2)) for r, s in zip(reach, stride, strict=True)]
        most = [max(low, r // 2) for low, r in zip(least, reach, strict=True)]
        padding = tuple(draw.randint(low, high) for low, high in zip(least, most, strict=True))
        self._count(stride)
        if kind == "strided":
            groups = draw.choice([1, channels])
            out = channels if groups > 1 else 4
            mode = draw.choice(["zeros", "zeros", "zeros", "reflect", "replicate"]) if max(padding) <= 2 else "zeros"
            conv = nn.Conv2d(
                channels, out, tuple(kernel), stride, padding, tuple(dilation), groups, bool(groups == 1), mode
            )
            after = draw.choice([[nn.ReLU()], [nn.BatchNorm2d(out), nn.ReLU(inplace=True)], []])
            return [conv, *after], out
        if kind == "function":
            start = (draw.randrange(stride[0]), draw.randrange(stride[1])) if draw.random() < 0.5 else (0, 0)
            return [Function(_Slice(start, stride))], channels
        padding = tuple(min(p, k // 2) for p, k in zip(padding, kernel, strict=True))
        ceil = any(
            (s - 1) < 2 * p - k + s < 0 or k - s > 2 * p for p, k, s in zip(padding, kernel, stride, strict=True)
        )
        settings = {"kernel_size": tuple(kernel), "stride": stride, "padding": padding, "ceil_mode": ceil}
        if draw.random() < 0.5:
            return [draw.choice([nn.MaxPool2d(**settings), Function(_Pool(F.max_pool2d, settings))])], channels
        settings |= {"count_include_pad": draw.random() < 0.5, "divisor_override": draw.choice([None, None, 3])}
        return [draw.choice([nn.AvgPool2d(**settings), Function(_Pool(F.avg_pool2d, settings))])], channels

    def _count(self, stride: tuple[int, int]) -> None:
        self.stride = [total * side for total, side in zip(self.stride, stride, strict=True)]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class _Slice:
    def __init__(self, start: Size, stride: Size) -> None:
        self.start, self.stride = start, stride

    def __call__(self, x: Tensor) -> Tensor:
        (a, b), (s, t) = self.start, self.stride
        return x[:, :, a::s, b::t]


class _Pool:
    def __init__(self, function: Callable[..., Tensor], settings: dict[str, object]) -> None:
        self.function, self.settings = function, settings

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x, **self.settings)


class Conv(nn.Sequential):
    """A 3x3 convolution, its norm and a ReLU."""

    def __init__(self, channels: int, out: int, stride: int = 1, dilation: int = 1) -> None:
        conv = nn.Conv2d(channels, out, 3, stride, padding=dilation, dilation=dilation, bias=False)
        super().__init__(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


class DeepLab(nn.Module):
    """As DeepLabV3: strides 2, 2, 2 and a dilated stage, an ASPP with image pooling, bilinear by 8; an unused head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.maxpool = Conv(3, 4, 2), nn.MaxPool2d(3, 2, 1)
        self.layer2, self.layer3 = Residual(4, 6, 2), Conv(6, 6, dilation=2)
        self.branches = nn.ModuleList([nn.Conv2d(6, 4, 1), Conv(6, 4, dilation=2), Conv(6, 4, dilation=3)])
        self.pooling = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.ReLU())
        self.project = nn.Sequential(nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Dropout(0.1), nn.Conv2d(8, 3, 1))
        self.aux = nn.Conv2d(6, 3, 1)

    def features(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.maxpool(self.stem(x))))
        context = F.interpolate(self.pooling(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.project(torch.cat([*(branch(x) for branch in self.branches), context], 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.features(x), size=x.shape[-2:], mode="bilinear", align_corners=False)


class UNet(nn.Module):
    """One max pool for all levels, skips, and upsamplings by transposed convolutions or interpolation."""

    def __init__(self, up: str = "transposed") -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(2)
        self.down1, self.down2, self.middle = Conv(3, 4), Conv(4, 6), Conv(6, 8)
        if up == "transposed":
            self.up2, self.up1 = nn.ConvTranspose2d(8, 6, 2, 2), nn.ConvTranspose2d(6, 4, 2, 2)
        else:
            self.up2 = nn.Sequential(nn.Upsample(scale_factor=2, mode=up), nn.Conv2d(8, 6, 1))
            self.up1 = nn.Sequential(nn.Upsample(scale_factor=2, mode=up), nn.Conv2d(6, 4, 1))
        self.join2, self.join1, self.head = Conv(12, 6), Conv(8, 4), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        x = self.up2(self.middle(self.pool(second)))
        x = self.up1(self.join2(torch.cat([second, x], 1)))
        return self.head(self.join1(torch.cat([first, x], 1)))


class LiteASPP(nn.Module):
    """As LR-ASPP: a gate of the deep branch, the deep branch resized to the shallow one, and their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = Conv(3, 4, 2), nn.Sequential(Conv(4, 6, 2), SqueezeExcitation(6))
        self.cbr, self.gate = Conv(6, 4), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1), nn.Sigmoid())
        self.low_head, self.high_head = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)
        high = self.high(low)
        deep = self.cbr(high) * self.gate(high)
        deep = F.interpolate(deep, size=low.shape[-2:], mode="bilinear", align_corners=False)
        joined = self.low_head(low) + self.high_head(deep)
        return F.interpolate(joined, size=x.shape[-2:], mode="bilinear", align_corners=False)


class Gated(nn.Module):
    """Gates of other levels: the first map's given to the last, and the last one's to the first."""

    def __init__(self, which: str) -> None:
        super().__init__()
        self.first, self.last = Conv(3, 4, 2), nn.Sequential(Conv(4, 4, 2), Conv(4, 4, 2))
        self.which, self.pool, self.head = which, nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        last = self.last(first)
        if self.which == "shallow":
            return self.head(last * torch.sigmoid(self.pool(first)))
        return self.head(first * torch.sigmoid(self.pool(last)))


class Patches(nn.Module):
    """As ConvNeXt: a stem of 4x4 patches, channels-last norms and linear layers, a downsampling of 2x2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 6, 7, padding=3, groups=6)
        self.norm, self.wide, self.narrow = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)
        self.down, self.head = nn.Conv2d(6, 8, 2, 2), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        return self.head(self.down(x))


class Attending(nn.Module):
    """Attention over all positions of a map, by the batch's size of the image, and a pyramid of pooled context."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Sequential(Conv(3, 4, 2), Conv(4, 8, 2)), nn.LayerNorm(8)
        self.qkv, self.head = nn.Linear(8, 24), nn.Conv2d(16, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.stem(x)
        _, channels, height, width = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(tokens).reshape(batch, height * width, 3, 2, channels // 2).permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(q @ k.transpose(-2, -1), -1) @ v
        mixed = mixed.transpose(1, 2).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        cells = F.interpolate(F.adaptive_avg_pool2d(x, (3, 2)), size=(height, width), mode="nearest")
        return self.head(torch.cat([x + mixed, cells], 1))


def fcn() -> nn.Module:
    """A factory, as a user writes one: strides, nine classes, resized to the image."""
    torch.manual_seed(0)
    return nn.Sequential(
        Conv(3, 8, 2), nn.MaxPool2d(3, 2, 1), Residual(8, 8, 2), nn.Conv2d(8, 9, 1),
        nn.Upsample(scale_factor=8, mode="bilinear"),
    )  # fmt: skip
