"""Operation counts against the paper's Table 5 and the totals of SMP-X."""

import pytest
import torch

from converters.flops import flops_by_component
from converters.networks import FIGURE7, network_from_arch


@pytest.mark.parametrize(
    ("name", "conv1", "conv2", "total"),
    # GFLOP as printed in Table 5 for an input of 1x3x256x256.
    [
        ("figure7-maxpool", 0.23, 2.42, 2.65),
        ("figure7-dilated", 0.23, 9.68, 9.92),
        ("figure7-split", 0.23, 9.68, 9.92),
    ],
)
def test_table_5(name: str, conv1: float, conv2: float, total: float) -> None:
    counts = flops_by_component(FIGURE7[name](), (256, 256))
    assert set(counts) == {"conv1", "conv2"}
    assert [round(counts[part] / 1e9, 2) for part in ("conv1", "conv2")] == [conv1, conv2]
    assert sum(counts.values()) / 1e9 == pytest.approx(total, abs=0.005)


def test_a_convolution_by_hand() -> None:
    # 2 * 3*3*3 for each of 5 * 8*10 outputs, and one for each bias.
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, padding=1))
    assert flops_by_component(network, (8, 10)) == {"0": (2 * 27 + 1) * 5 * 80}


@pytest.mark.parametrize(("arch", "tflop"), [("smp-resnet18", 46.9), ("smp-resnet34", 89.2), ("smp-resnet101", 178.0)])
def test_a_frame_of_cityscapes(arch: str, tflop: float) -> None:
    with torch.device("meta"):
        network = network_from_arch(arch)
    assert sum(flops_by_component(network, (1024, 2048)).values()) / 1e12 == pytest.approx(tflop, rel=0.004)
