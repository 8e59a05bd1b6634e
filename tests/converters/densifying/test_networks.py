"""Networks as people have them: what each becomes, what stays exact, and what the report says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.network import traced_network
from converters.densifying import Fate, densify
from converters.densifying.places import Standing
from converters.networks import network_from_arch
from converters.rewriting.proof import noise_case
from converters.trunks import proven_trunks
from tests.strided import (
    Attending,
    Conv,
    DeepLab,
    Gated,
    LiteASPP,
    Patches,
    Residual,
    SqueezeExcitation,
    UNet,
    noise,
    relative,
    shifted,
    with_values,
)

EXACT = 1e-10


def small(arch: str) -> nn.Module:
    return network_from_arch(arch, width=4, classes=3)


def backbone(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers)


STITCHED: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "residual": (backbone(Conv(3, 4, 2), Residual(4, 6, 2), Residual(6, 6, 1), nn.Conv2d(6, 2, 1)), (24, 28)),
    "gates": (backbone(Conv(3, 4, 2), SqueezeExcitation(4), Conv(4, 4, 2), SqueezeExcitation(4)), (24, 28)),
    "norms over space": (
        backbone(
            nn.Conv2d(3, 4, 3, 2, 1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.MaxPool2d(2), nn.LayerNorm((4, 6, 7))
        ),
        (24, 28),
    ),
    "channels last": (Patches, (32, 40)),
    "attention and cells": (Attending, (24, 28)),
    "a gate of the first level": (lambda: Gated("shallow"), (32, 40)),
}


@pytest.mark.parametrize("name", STITCHED)
def test_a_network_at_the_shift_of_nothing(name: str) -> None:
    factory, size = STITCHED[name]
    network = with_values(factory())
    dense, report = densify(network, size)
    (rows, columns), x = report.size_multiple, noise(size)
    with torch.no_grad():
        assert relative(dense(x)[..., ::rows, ::columns], network(x)) <= EXACT
    assert report.function is Standing.SHIFTS
    assert report.walkable_levels == len(report.windows)
    assert not report.joins


@pytest.mark.parametrize("name", ["gates", "attention and cells"])
def test_statistics_are_those_of_each_shift(name: str) -> None:
    """With circular padding there is no border: each shift is a whole image, with statistics of its own, everywhere."""
    factory, size = STITCHED[name]
    network = with_values(factory())
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and max(layer.padding) > 0:
            layer.padding_mode = "circular"
            layer._reversed_padding_repeated_twice = [side for side in reversed(layer.padding) for _ in (0, 1)]
    dense, report = densify(network, size)
    (rows, columns), x = report.size_multiple, noise(size)
    with torch.no_grad():
        z = dense(x)
        for phase in [(0, 1), (1, 0), (3, 2)]:
            expected = network(x.roll((-phase[0], -phase[1]), (2, 3)))
            assert relative(z[..., phase[0] :: rows, phase[1] :: columns], expected) <= EXACT


MEANS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "bilinear by 4": (
        backbone(Conv(3, 4, 2), nn.Conv2d(4, 3, 2, 2), nn.Upsample(scale_factor=4, mode="bilinear")),
        (48, 64),
    ),
    "bilinear by 3 and 2": (
        backbone(nn.Conv2d(3, 4, 3, (3, 2), 1), nn.Upsample(scale_factor=(3, 2), mode="bilinear")),
        (48, 64),
    ),
    "nearest by 4": (backbone(Conv(3, 4, 2), nn.MaxPool2d(2), nn.Upsample(scale_factor=4)), (48, 64)),
    "bicubic by 2": (backbone(Conv(3, 4, 2), nn.Upsample(scale_factor=2, mode="bicubic")), (48, 64)),
    "in two steps": (
        backbone(
            Conv(3, 4, 2),
            Conv(4, 4, 2),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.Conv2d(4, 3, 3, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        ),
        (48, 64),
    ),
    "transposed k2 s2": (backbone(Conv(3, 4, 2), nn.ConvTranspose2d(4, 3, 2, 2)), (48, 64)),
    "transposed k4 s2 p1": (backbone(Conv(3, 4, 2), nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=2)), (48, 64)),
    "transposed k3 s2 p1, one row more": (
        backbone(Conv(3, 4, 2), nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1)),
        (48, 64),
    ),
    "transposed k8 s4 p2": (backbone(Conv(3, 4, 2), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 3, 8, 4, 2)), (48, 64)),
    "shuffled": (backbone(Conv(3, 4, 2), nn.Conv2d(4, 12, 1), nn.PixelShuffle(2)), (48, 64)),
    "fcn8s": (lambda: TwoHeads(), (48, 64)),
}


class TwoHeads(nn.Module):
    """As FCN8s: heads of two levels, the deeper one resized and added, all resized to the image."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = Conv(3, 4, 2), Conv(4, 4, 2)
        self.head1, self.head2 = nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        deep = self.head2(self.last(first))
        logits = self.head1(first) + F.interpolate(deep, size=first.shape[-2:], mode="bilinear", align_corners=False)
        return F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("name", MEANS)
def test_merge_and_kernel_is_the_mean_over_all_shifts(name: str) -> None:
    """Of what the strided network gives for each shifted image, upsampled, and moved back; inside the border."""
    factory, (height, width) = MEANS[name]
    network = with_values(factory())
    dense, report = densify(network, (height, width))
    rows, columns = report.size_multiple
    # The image in the middle of a larger one, which the strided network sees at every shift.
    around = 16
    big = noise((height + 2 * around, width + 2 * around))
    with torch.no_grad():
        total = torch.zeros(())
        for row in range(rows):
            for column in range(columns):
                part = big[..., row : row + height + around, column : column + width + around]
                top, left = around - row, around - column
                total = total + network(part)[..., top : top + height, left : left + width]
        mean = total / (rows * columns)
        actual = dense(big[..., around:-around, around:-around])
    inside = (..., slice(12, -12), slice(12, -12))
    assert relative(actual[inside], mean[inside]) <= EXACT
    assert report.function is Standing.MEAN
    assert not report.joins


def test_plain_merges_are_the_strided_network_before_its_upsampling() -> None:
    network = with_values(DeepLab())
    dense, report = densify(network, (40, 48), upsampling="merge")
    assert report.function is Standing.STITCHED
    assert report.walkable_levels == 3
    x = noise((40, 48))
    with torch.no_grad():
        assert relative(dense(x)[..., ::8, ::8], network.features(x)) <= EXACT
    dilations = {path: layer.dilation for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    assert all(dense.get_submodule(path).dilation == held for path, held in dilations.items() if path != "aux")


@pytest.mark.parametrize(
    ("factory", "size", "joins", "fates"),
    [
        (UNet, (24, 32), ("join2.2 (join2_2)",), {"dense": 2, "merged": 2}),
        (lambda: UNet("bilinear"), (24, 32), ("join2.2 (join2_2)",), {"dense": 2, "merged": 2}),
        (lambda: UNet("nearest"), (24, 32), ("join2.2 (join2_2)",), {"dense": 2, "merged": 2}),
        (lambda: Gated("deep"), (32, 40), ("mul",), {"dense": 3, "kept": 1, "joined": 1, "merged": 1}),
    ],
    ids=["transposed", "bilinear", "nearest", "a gate of the last level"],
)
def test_levels_that_join_are_named(
    factory: Callable[[], nn.Module], size: tuple[int, int], joins: tuple[str, ...], fates: dict[str, int]
) -> None:
    network = with_values(factory())
    dense, report = densify(network, size)
    assert report.function is Standing.JOINED
    assert report.joins == joins
    assert report.counts() == fates
    assert "want a short fine-tuning" in str(report)
    with torch.no_grad():
        assert dense(noise(size)).shape[-2:] in (size, (size[0] // 2, size[1] // 2), size)


def test_the_encoder_of_a_joined_network_is_exact() -> None:
    """The deepest map of a U-Net, at every phase that the check does not look at."""
    network = with_values(UNet())
    dense, _ = densify(network, (32, 32))
    deep: dict[str, Tensor] = {}
    for name, held in (("strided", network), ("dense", dense)):
        held.get_submodule("middle.0").register_forward_hook(
            lambda _, __, value, name=name: deep.__setitem__(name, value)
        )
    big = noise((68, 68))
    with torch.no_grad():
        dense(big[..., 16:48, 16:48])
        for row in range(4):
            for column in range(4):

                def encoder(x: Tensor) -> Tensor:
                    network(x[..., : x.shape[2] // 4 * 4, : x.shape[3] // 4 * 4])
                    return deep["strided"]

                expected, inside = shifted(encoder, big, (16, 16), (32, 32), (row, column))
                # The first split is the outer one: its phase is that of single rows and columns.
                entry = (row % 2 * 2 + column % 2) * 4 + row // 2 * 2 + column // 2
                difference = ((deep["dense"][entry : entry + 1] - expected).abs() * inside).max()
                assert float(difference / expected.abs().max()) <= EXACT
                assert inside.sum() >= 4


def test_a_known_architecture_by_default_and_merged() -> None:
    network = small("fcn8s-resnet18").eval()
    _, report = densify(network, (64, 64))
    assert (report.function, report.walkable_levels) == (Standing.MEAN, 0)
    dense, report = densify(network, (64, 64), upsampling="merge")
    assert (report.function, report.walkable_levels) == (Standing.JOINED, 3)
    assert traced_network(dense).cut_levels == 1


@pytest.mark.parametrize("stem", [nn.Conv2d(3, 4, 4, 4), nn.Conv2d(3, 4, 4, 2, 1), nn.Conv2d(3, 4, 2, 2)])
def test_a_stem_of_uneven_padding_is_cut_into_windows(stem: nn.Conv2d) -> None:
    """Else walking its phases would repeat work. Every form of it is proven phase by phase."""
    dense, report = densify(nn.Sequential(stem, nn.ReLU(), nn.Conv2d(4, 2, 1)).eval(), (24, 32))
    traced, levels = traced_network(dense), len(report.windows)
    assert traced.cut_levels == levels
    assert [form.looped.levels for form in proven_trunks(noise_case(traced))] == [levels, *range(levels)]


def test_norms_behind_a_split_are_folded() -> None:
    dense, _ = densify(small("fcn32s-resnet18").eval(), (64, 64), upsampling="merge")
    layers = traced_network(dense).graph.modules()
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in layers)


def test_strides_behind_a_module_are_kept() -> None:
    class Staged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer1, self.layer2, self.layer3 = Conv(3, 4, 2), Conv(4, 4, 2), Conv(4, 4, 2)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            deep = self.head(self.layer3(self.layer2(self.layer1(x))))
            return F.interpolate(deep, size=x.shape[-2:], mode="bilinear", align_corners=False)

    network = with_values(Staged())
    dense, report = densify(network, (32, 48), until="layer2", upsampling="merge")
    assert report.size_multiple == (4, 4)
    kept = [row for row in report.layers if row.fate is Fate.KEPT]
    assert [(row.name, row.done) for row in kept] == [("layer3.0", "strided inside each shift, as it was")]
    x = noise((32, 48))
    with torch.no_grad():
        # Each shift by four is resized inside itself, by the two that its own stride has left.
        deep = network.head(network.layer3(network.layer2(network.layer1(x))))
        expected = F.interpolate(deep, scale_factor=2.0, mode="bilinear", align_corners=False)
        assert relative(dense(x)[..., ::4, ::4], expected) <= EXACT


def test_corners_aligned_become_merges_by_default() -> None:
    network = with_values(nn.Sequential(Conv(3, 4, 2), nn.UpsamplingBilinear2d(scale_factor=2)))
    _, report = densify(network, (16, 24))
    assert [row.done for row in report.layers if row.fate is Fate.MERGED] == ["merged by 2x2"]
    assert report.function is Standing.STITCHED


def test_a_layer_is_given_its_input_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = nn.Conv2d(3, 4, 3, 2, 1), nn.AvgPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(input=self.conv(input=x))

    network = with_values(Named())
    dense, _ = densify(network, (16, 24))
    x = noise((16, 24))
    with torch.no_grad():
        assert relative(dense(x)[..., ::4, ::4], network(x)) <= EXACT


def test_lite_aspp_is_a_mean_of_shifts() -> None:
    _, report = densify(with_values(LiteASPP()), (24, 32))
    assert report.function is Standing.MEAN
