"""Phase by phase against the network as a whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from converters.graphs.stages import IMAGENET_MEAN as MEAN
from converters.graphs.stages import IMAGENET_STD as STD
from converters.networks import network_from_arch
from engines.errors import InputError
from engines.schedules.phases import dispersed
from smp_deploy.evaluation import NetworkPredictor


def _network(arch: str):
    torch.manual_seed(1)
    network = network_from_arch(arch, classes=5, width=4)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.2)
    return network.eval()


def _frame(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


def _whole(network, frame: np.ndarray) -> np.ndarray:
    """Normalised and padded by numpy, the network's own splits and merges, cropped."""
    height, width = frame.shape[:2]
    padded = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), np.float32)
    padded[:height, :width] = (frame / 255 - np.array(MEAN)) / np.array(STD)
    with torch.no_grad():
        logits = network(torch.from_numpy(padded.transpose(2, 0, 1))[None])
    return logits.argmax(1)[0, :height, :width].numpy()


@pytest.mark.parametrize("arch", ["smp-resnet18", "fcn32s-resnet18", "fcn8s-resnet18"])
@pytest.mark.parametrize("size", [(64, 96), (50, 70)])
def test_predictions_are_those_of_the_whole_network(arch, size):
    network, frame = _network(arch), _frame(size)
    prediction = NetworkPredictor(network).predict(frame)
    assert prediction.dtype == np.uint8
    np.testing.assert_array_equal(prediction, _whole(network, frame))


@pytest.mark.parametrize("phases", [1, 2, 4, 8])
def test_pixels_of_computed_phases_are_exact_and_the_others_are_the_nearest(phases):
    network, frame = _network("smp-resnet18"), _frame((64, 96))
    whole, part = _whole(network, frame), NetworkPredictor(network, phases=phases).predict(frame)
    computed = dispersed((4, 4))[:phases]
    for row, column in itertools.product(range(8, 56), range(8, 88)):
        near = [
            (r, c) for r in range(row - 4, row + 5) for c in range(column - 4, column + 5) if (r % 4, c % 4) in computed
        ]
        nearest = min((r - row) ** 2 + (c - column) ** 2 for r, c in near)
        allowed = {int(whole[r, c]) for r, c in near if (r - row) ** 2 + (c - column) ** 2 == nearest}
        assert int(part[row, column]) in allowed


def test_what_cannot_be_asked_for():
    with pytest.raises(InputError, match="1 to 16 phases can be computed; received 17"):
        NetworkPredictor(_network("smp-resnet18"), phases=17)
    with pytest.raises(InputError, match="FCN32s has no phases to walk: it computes all its pixels at once"):
        NetworkPredictor(_network("fcn32s-resnet18"), phases=4)
