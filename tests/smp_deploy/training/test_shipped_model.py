"""The network that comes along: what its card promises."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smp_deploy.datasets import CAMVID
from smp_deploy.evaluation import NetworkPredictor
from smp_deploy.training import network_from_weights

MODEL = Path(str(files("smp_deploy") / "data" / "camvid-smp18.safetensors"))
FRAME = Path(str(files("smp_deploy") / "data" / "camvid-frame.png"))


@pytest.fixture(scope="module")
def labels():
    """The demo's frame, by one of its 16 phases: every fourth row and column computed."""
    network, _ = network_from_weights(MODEL)
    return NetworkPredictor(network, phases=1).predict(np.asarray(Image.open(FRAME).convert("RGB")))


def test_it_is_small_and_says_what_it_is():
    network, info = network_from_weights(MODEL)
    assert MODEL.stat().st_size <= 8_000_000
    assert (info.arch, info.width, info.dataset) == ("smp-resnet18", 24, CAMVID)
    assert sum(parameter.numel() for parameter in network.parameters()) == 1_578_275


def test_it_sees_the_road_the_sky_and_the_cars(labels):
    road, sky, car = (CAMVID.classes.index(name) for name in ("road", "sky", "car"))
    assert (labels[300:, 160:400] == road).mean() > 0.95
    assert (labels[5:50, 120:200] == sky).mean() > 0.9
    assert (labels[172:192, 170:212] == car).mean() > 0.8


def test_it_sees_thin_objects(labels):
    """Of each: somewhere between a few hundred pixels and a twentieth of the frame."""
    for number in CAMVID.thin:
        assert 50 < (labels == number).sum() < labels.size / 20, CAMVID.classes[number]
