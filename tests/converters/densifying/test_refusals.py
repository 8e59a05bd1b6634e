"""Networks that have no dense form: each is refused, and the message names the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.densifying import densify
from engines.errors import InputError, NetworkError
from tests.strided import Conv, Function, with_values


class Composed(nn.Module):
    """Layers under their names, and a forward pass of them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.passed = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.passed(self, x)


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU())
    network[0].register_forward_hook(lambda layer, inputs, output: output * 2)
    return network


def indices(self: Any, x: Tensor) -> Tensor:
    values, places = self.pool(self.conv(x))
    return self.unpool(values, places)


def two_forms(self: Any, x: Tensor) -> Tensor:
    x = self.conv(x)
    context = self.conv(F.adaptive_avg_pool2d(x, 4))
    return x + context.mean((2, 3), keepdim=True)


def strides_of_two_and_three(self: Any, x: Tensor) -> Tensor:
    gate = F.adaptive_avg_pool2d(self.three(x), 1)
    return self.two(x) * gate


def vector(self: Any, x: Tensor) -> Tensor:
    deep = self.last(self.first(x)).mean((2, 3))
    return self.first(x).mean((2, 3)) + deep


def heads(self: Any, x: Tensor) -> Tensor:
    batch = x.shape[0]
    x = self.conv(x)
    return x.reshape(batch * 2, 2, x.shape[2], x.shape[3]).reshape(batch, 4, x.shape[2], x.shape[3])


def one_image(self: Any, x: Tensor) -> Tensor:
    x = self.conv(x)
    return x + x.reshape(1, 4, -1).mean(2).reshape(1, 4, 1, 1)


def context(self: Any, x: Tensor) -> Tensor:
    first = self.first(x)
    return self.last(first) + F.adaptive_avg_pool2d(first, (4, 6))


def by_chance(self: Any, x: Tensor) -> Tensor:
    return self.conv(x) * torch.rand(1)


def strided(**settings: Any) -> nn.Conv2d:
    return nn.Conv2d(3, 4, 3, 2, 1, **settings)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "indices": (
        lambda: Composed(indices, conv=Conv(3, 4), pool=nn.MaxPool2d(2, return_indices=True), unpool=nn.MaxUnpool2d(2)),
        r"pool \(pool\) gives the places of its maxima",
    ),
    "one and a half": (
        lambda: nn.Sequential(strided(), nn.Upsample(scale_factor=1.5, mode="bilinear")),
        r"1 \(_1\) makes a map of 12x18 of one of 8x12, and no level of the network has maps of that size",
    ),
    "beyond the image": (
        lambda: nn.Sequential(strided(), nn.ConvTranspose2d(4, 2, 4, 4)),
        r"1 \(_1\) makes a map of 32x48 of one of 8x12",
    ),
    "no padding": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 2, 2)),
        r"returns a map of 6x10 \(1 \(_1\)\), whose split batches make none of 16x24: pad",
    ),
    "resized down": (
        lambda: Composed(
            lambda self, x: F.interpolate(self.conv(x), scale_factor=0.5, mode="bilinear"), conv=strided()
        ),
        r"interpolate resizes a map to fewer rows and columns \(8x12 to 4x6\)",
    ),
    "patches": (
        lambda: Composed(lambda self, x: self.patches(self.conv(x)), conv=strided(), patches=nn.Unfold(2, stride=2)),
        r"patches \(patches\) takes patches at a stride of 2",
    ),
    "fractional": (
        lambda: nn.Sequential(strided(), nn.FractionalMaxPool2d(2, output_ratio=0.5)),
        r"1 \(_1\) makes a map of 4x6 of one of 8x12, in a way that has no dense form here",
    ),
    "repeated": (
        lambda: Composed(lambda self, x: self.conv(x).repeat_interleave(2, 2).repeat_interleave(2, 3), conv=strided()),
        r"repeat_interleave makes a map of 16x12 of one of 8x12",
    ),
    "hooks": (hooked, r"0 \(_0\) has hooks"),
    "two forms": (
        lambda: Composed(two_forms, conv=nn.Conv2d(3, 3, 3, 2, 1)),
        "conv is called several times, and its calls would need other paddings or strides of one layer",
    ),
    "a classifier": (
        lambda: nn.Sequential(strided(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
        r"returns what 3 \(_3\) gives, which is no map of the image",
    ),
    "pooled alone": (
        lambda: nn.Sequential(strided(), nn.AdaptiveAvgPool2d(3)),
        r"returns what 1 \(_1\) gives, which is no map of the image",
    ),
    "strides of two and three": (
        lambda: Composed(strides_of_two_and_three, two=strided(), three=nn.Conv2d(3, 4, 3, 3)),
        "maps of different levels meet at mul, whose strides are no parts of each other's",
    ),
    "a vector of another level": (
        lambda: Composed(vector, first=strided(), last=nn.Conv2d(4, 4, 3, 2, 1)),
        "maps of different levels meet at add, and mean(_1)? has 2 axes",
    ),
    "cells of another level": (
        lambda: Composed(context, first=strided(), last=nn.Conv2d(4, 4, 3, 2, 1)),
        "maps of different levels meet at add, and adaptive_avg_pool2d is pooled or reshaped",
    ),
    "the batch of another level": (
        lambda: Composed(heads, conv=strided()),
        r"reshape is given the batch size of another level's map",
    ),
    "one image alone": (lambda: Composed(one_image, conv=strided()), r"what (reshape|mean|reshape_1|add) gives"),
    "statistics of the batch": (
        lambda: nn.Sequential(strided(), nn.BatchNorm2d(4, track_running_stats=False)),
        r"what 1 \(_1\) gives differs by",
    ),
    "the mean of a batch": (
        lambda: Composed(lambda self, x: self.conv(x) - self.conv(x).mean(0, keepdim=True), conv=strided()),
        r"what (mean|sub) gives",
    ),
    "no stride": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), "Sequential has no strided layer"),
    "no trace": (
        lambda: Composed(by_chance, conv=strided()),
        "the network differs from its trace: something in its forward leaves no trace",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_name(name: str) -> None:
    factory, message = REFUSED[name]
    network = with_values(factory())
    with pytest.raises(NetworkError, match=message):
        densify(network, (16, 24))


def test_a_kernel_that_there_is_none_of() -> None:
    network = with_values(nn.Sequential(strided(), nn.UpsamplingBilinear2d(scale_factor=2)))
    with pytest.raises(NetworkError, match=r'1 \(_1\) interpolates with aligned corners.*choose upsampling="merge"'):
        densify(network, (16, 24), upsampling="kernel")


def test_a_module_that_there_is_none_of() -> None:
    network = with_values(nn.Sequential(Conv(3, 4, 2), nn.Conv2d(4, 2, 1)))
    with pytest.raises(NetworkError, match=r"until='layer3' is no module that the network calls.*: '0', '1'"):
        densify(network, (16, 24), until="layer3")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"upsampling": "bilinear"}, "upsampling='bilinear' is unknown; known are kernel, merge"),
        ({"max_pool": "none"}, "max_pool='none' is unknown; known are dense, split"),
        ({"size": (16, 0)}, "size= is "),
    ],
)
def test_arguments_that_are_wrong(arguments: dict[str, Any], message: str) -> None:
    network = nn.Sequential(Conv(3, 4, 2))
    with pytest.raises(InputError, match=message):
        densify(network, **{"size": (16, 24), **arguments})


def test_a_function_that_is_no_layer_is_followed_into() -> None:
    network = with_values(nn.Sequential(Function(lambda x: x[..., ::2, ::2]), nn.Conv2d(3, 2, 1)))
    _, report = densify(network, (16, 24))
    assert [row.name for row in report.layers] == ["0: getitem", "output"]
    assert torch.is_grad_enabled()
