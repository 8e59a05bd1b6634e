"""Layers that lose resolution are found, and what only looks like it is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.network import traced_network
from converters.analysis.resolution import LostResolution, lost_resolution
from converters.networks import network_from_arch
from converters.pooling import MergePool2d, SplitPool2d
from tests.networks import UnevenNetwork

SPLIT = SplitPool2d(2)
LAYERS = (nn.Conv2d(3, 4, 3, padding=1), SPLIT)


class Sliced(nn.Module):
    """Leaves out every second row and column, by a function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(F.avg_pool2d(x, 2)[..., ::2, ::2], size=x.shape[-2:])


@pytest.mark.parametrize(
    ("network", "found"),
    [
        (
            nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)),
            LostResolution(("0",), ("2",)),
        ),
        (
            nn.Sequential(*LAYERS, nn.MaxPool2d(2), nn.ConvTranspose2d(4, 2, 2, stride=2), MergePool2d(SPLIT)),
            LostResolution(("2",), ("3",)),
        ),
        (Sliced(), LostResolution(("avg_pool2d", "getitem"), ("interpolate",))),
        (nn.Sequential(*LAYERS, nn.Conv2d(4, 4, 3, padding=1), MergePool2d(SPLIT)), None),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 2, 1), nn.Upsample((24, 36))), None),
        (nn.Sequential(nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d((24, 36))), None),
        (nn.Sequential(nn.Conv2d(3, 2, 9), nn.ZeroPad2d(4)), None),
        (UnevenNetwork(), None),
    ],
    ids=["stride", "forgotten pool", "functions", "split", "whole map", "context", "no padding", "uneven windows"],
)
def test_what_loses_resolution(network: nn.Module, found: LostResolution | None) -> None:
    traced = traced_network(network.eval())
    rows, columns = traced.size_multiple
    assert lost_resolution(traced, (24 // rows * rows, 144 // columns * columns)) == found


def test_a_network_of_splits_loses_none_and_one_of_strides_does() -> None:
    assert lost_resolution(traced_network(network_from_arch("smp-resnet18", width=4)), (64, 96)) is None
    lost = lost_resolution(traced_network(network_from_arch("fcn32s-resnet18", width=4)), (64, 96))
    assert lost is not None
    assert lost.reducing[:3] == ("conv1", "maxpool", "layer2.0.conv1")
    assert lost.warning(0) == (
        "the network loses resolution at conv1, maxpool, layer2.0.conv1 and 5 more, and resizes back at interpolate: "
        "what lies between is not computed at every pixel, and no loop can walk these layers, so that memory holds "
        "their maps of the frame as a whole. smp_deploy.densify(network, size) makes each a layer of stride 1 with a "
        "split behind it, under the same weights: the network at every shift of the frame, a prediction of its own for "
        "every pixel"
    )
    assert "their maps of a phase as a whole" in lost.warning(1)


def test_values_are_not_computed() -> None:
    """A frame of 2**20 rows and columns takes no memory."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Upsample(scale_factor=2))
    assert lost_resolution(traced_network(network), (2**20, 2**20)) == LostResolution(("0",), ("1",))
    assert torch.get_default_device().type == "cpu"
