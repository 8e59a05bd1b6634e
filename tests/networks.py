"""Networks for tests: a user's own with uneven windows, random ones, and statistics worth folding."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from converters.pooling import MergePool2d, SplitPool2d, merge, split

_Network = TypeVar("_Network", bound=nn.Module)


def with_statistics(factory: Callable[[], _Network], seed: int) -> _Network:
    """A network with seeded parameters and batch norms that are far from the identity, in evaluation mode."""
    torch.manual_seed(seed)
    network = factory()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return network.eval()


class UnevenNetwork(nn.Module):
    """Windows 3x2, 2x2 and 1x4, a depthwise block and a shortcut: total window 6x16."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.split1, self.split2, self.split3 = SplitPool2d((3, 2)), SplitPool2d((2, 2)), SplitPool2d((1, 4))
        self.stem = nn.Conv2d(3, 8, (5, 3), padding=(2, 1))
        self.stem_norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(8)
        self.pointwise = nn.Conv2d(8, 12, 1)
        self.shortcut = nn.Conv2d(8, 12, 1)
        self.body = nn.Conv2d(12, 12, 3, padding=2, dilation=2)
        self.head = nn.Conv2d(12, classes, 1)
        self.merges = nn.Sequential(MergePool2d(self.split3), MergePool2d(self.split2), MergePool2d(self.split1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.split1(self.stem_norm(self.stem(x))))
        main = self.split2(self.pointwise(self.relu(self.depthwise_norm(self.depthwise(x)))))
        x = self.relu(main + self.split2(self.shortcut(x)))
        x = self.relu(self.body(self.split3(x)))
        return self.merges(self.head(x))


def uneven_network() -> nn.Module:
    """A factory, as a user writes one."""
    return with_statistics(UnevenNetwork, seed=3)


def uneven_for_scenes() -> nn.Module:
    """A factory for the nine classes of the generated scenes."""
    return UnevenNetwork(classes=9)


class BroadNetwork(nn.Module):
    """Two splits and few layers of 16 and 32 channels: much memory for little work."""

    def __init__(self) -> None:
        super().__init__()
        self.split1, self.split2 = SplitPool2d(2), SplitPool2d(2)
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 32, 3, padding=1)
        self.head = nn.Conv2d(32, 5, 1)
        self.relu = nn.ReLU()
        self.merges = nn.Sequential(MergePool2d(self.split2), MergePool2d(self.split1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.split1(self.relu(self.stem(x)))
        x = self.split2(self.relu(self.body(x)))
        return self.merges(self.head(self.relu(self.last(x))))


class Asserting(nn.Module):
    """Checks the shapes of what it is given. Not in a test's own file, whose assertions pytest rewrites."""

    def __init__(self) -> None:
        super().__init__()
        self.split = SplitPool2d(2)
        self.merge = MergePool2d(self.split)

    def forward(self, x: Tensor) -> Tensor:
        assert x.ndim == 4 and x.shape[1] == 3, "an image"  # noqa: PT018 - both forms are traced
        x = self.split(x)
        assert x.shape[0] % 4 == 0
        torch._assert(x.shape[1] == 3, "channels")
        return self.merge(x)


class RandomNetwork(nn.Module):
    """A chain of convolutions, pointwise layers, shortcuts and splits at random places, merged at the end."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.steps: list[tuple[str, object]] = []
        self.layers = nn.ModuleList()
        channels = 3
        self.windows: list[tuple[int, int]] = []
        for _ in range(draw.randint(3, 7)):
            kind = draw.choice(["conv", "conv", "pointwise", "split", "functional split", "residual"])
            if kind == "conv":
                groups = draw.choice([1, channels]) if channels > 3 else 1
                out = channels if groups > 1 else draw.choice([4, 6])
                kernel, dilation = (draw.choice([1, 3, 5]), draw.choice([1, 3])), draw.choice([1, 2])
                padding = tuple(dilation * (side - 1) // 2 for side in kernel)
                self._add(nn.Conv2d(channels, out, kernel, padding=padding, dilation=dilation, groups=groups))
                channels = out
                if draw.random() < 0.5:
                    self._add(nn.BatchNorm2d(channels))
            elif kind == "pointwise":
                self._add(draw.choice([nn.ReLU(), nn.Hardswish(), nn.Conv2d(channels, channels, 1)]))
            elif kind == "residual":
                self.steps.append(("residual", len(self.layers)))
                self.layers.append(nn.Conv2d(channels, channels, 3, padding=1))
            elif len(self.windows) < 3:
                window = draw.choice([(2, 2), (1, 2), (3, 1), (2, 1)])
                self.windows.append(window)
                if kind == "split":
                    self._add(SplitPool2d(window))
                else:
                    self.steps.append(("split", window))
        self.head = nn.Conv2d(channels, 4, 1)

    def _add(self, layer: nn.Module) -> None:
        self.steps.append(("layer", len(self.layers)))
        self.layers.append(layer)

    def forward(self, x: Tensor) -> Tensor:
        for kind, what in self.steps:
            if kind == "layer":
                x = self.layers[what](x)
            elif kind == "split":
                x = split(x, what)
            else:
                x = x + self.layers[what](x)
        x = self.head(x)
        for window in reversed(self.windows):
            x = merge(x, window)
        return x
