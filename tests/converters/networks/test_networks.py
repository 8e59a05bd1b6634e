"""Networks: published parameter counts, torchvision's keys, and the dilated form as an oracle of the function."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from converters.exporting import export
from converters.networks import ARCHITECTURES, SMP, network_from_arch, network_from_factory
from converters.networks.resnet import BasicBlock
from engines.errors import NetworkError
from tests.networks import with_statistics


@pytest.mark.parametrize(
    ("arch", "parameters"),
    # Tables 1 and 2 print 11.186M, 21.29M, 42.54M; 11.193M, 21.30M and 42.56M (42.57M is what its layers sum to).
    [
        ("smp-resnet18", 11_186_259),
        ("fcn32s-resnet18", 11_186_259),
        ("fcn8s-resnet18", 11_193_593),
        ("smp-resnet34", 21_294_419),
        ("fcn32s-resnet34", 21_294_419),
        ("fcn8s-resnet34", 21_301_753),
        ("smp-resnet101", 42_539_091),
        ("fcn32s-resnet101", 42_539_091),
        ("fcn8s-resnet101", 42_568_313),
    ],
)
def test_parameter_counts_of_tables_1_and_2(arch: str, parameters: int) -> None:
    with torch.device("meta"):
        network = network_from_arch(arch)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_keys_are_torchvisions() -> None:
    # Written down from torchvision 0.24's resnet50, whose package is not needed for it.
    with torch.device("meta"):
        keys = network_from_arch("smp-resnet50").state_dict()
    for key, shape in {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.0.conv1.weight": (64, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.weight": (256,),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.num_batches_tracked": (),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "head.weight": (19, 2048, 1, 1),
        "head.bias": (19,),
    }.items():
        assert tuple(keys[key].shape) == shape
    # torchvision's resnet50 has 320 entries; the classifier's two give way to the head's two.
    assert len(keys) == 320


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_gives_logits_of_the_input_size(arch: str) -> None:
    network = with_statistics(lambda: network_from_arch(arch, classes=4, width=2), seed=0)
    with torch.no_grad():
        assert network(torch.randn(2, 3, 64, 96)).shape == (2, 4, 64, 96)


def test_smp_and_fcn32s_exchange_checkpoints() -> None:
    smp, fcn = (network_from_arch(f"{family}-resnet18", width=4) for family in ("smp", "fcn32s"))
    assert list(smp.state_dict()) == list(fcn.state_dict())
    fcn.load_state_dict(smp.state_dict())


def dilated_smp18(network: SMP, x: Tensor) -> Tensor:
    """SMP-18 with no split at all: convolutions dilated by 2^level on the full grid, functional PyTorch alone."""

    def conv(x: Tensor, layer: torch.nn.Conv2d, dilation: int) -> Tensor:
        padding = layer.kernel_size[0] // 2 * dilation
        return F.conv2d(x, layer.weight, layer.bias, padding=padding, dilation=dilation)

    x = F.relu(network.bn1(conv(x, network.conv1, 1)))
    dilation = 4
    for layer in (network.layer1, network.layer2, network.layer3, network.layer4):
        for block in layer:
            assert isinstance(block, BasicBlock)
            shortcut = x
            if block.downsample is not None:
                shortcut = block.downsample[1](conv(x, block.downsample[0], dilation))
            x = block.bn1(conv(x, block.conv1, dilation))
            dilation *= 2 if block.split is not None else 1
            x = block.bn2(conv(F.relu(x), block.conv2, dilation))
            x = F.relu(x + shortcut)
    return conv(x, network.head, 1)


def test_smp18_equals_its_dilated_form() -> None:
    network = with_statistics(lambda: network_from_arch("smp-resnet18", width=8), seed=2)
    x = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        split, dilated = network(x), dilated_smp18(network, x)
    assert float((split - dilated).abs().max() / dilated.abs().max()) < 1e-5


@pytest.mark.parametrize("arch", ["smp-resnet19", "resnet18", "smp_resnet18", ""])
def test_an_unknown_architecture_lists_the_known(arch: str) -> None:
    with pytest.raises(NetworkError, match=r"known are smp-resnet18, .*fcn8s-resnet101"):
        network_from_arch(arch)


def lazy_network() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.LazyConv2d(2, 1))


def test_a_lazy_layer_that_was_never_run(tmp_path: Path) -> None:
    said = (
        r"^the layer '1' is lazy and has no shape yet \(1\.weight\); name its channels, or run the network once in its "
        r"factory$"
    )
    with pytest.raises(NetworkError, match=said):
        network_from_factory("tests.converters.networks.test_networks:lazy_network")
    with pytest.raises(NetworkError, match=said):
        export(lazy_network(), tmp_path / "bundle", size=(8, 8))
    assert not (tmp_path / "bundle").exists()


def test_classes_and_width_are_at_least_one() -> None:
    with pytest.raises(NetworkError, match="classes=0"):
        network_from_arch("smp-resnet18", classes=0)


def test_factories_are_found_in_the_working_directory(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_own_nets.py").write_text(
        "from torch import nn\ndef good():\n    return nn.Conv2d(3, 2, 1)\ndef bad():\n    return 3\n"
        "def failing():\n    return 1 / 0\ndef leaving():\n    raise SystemExit(0)\n"
    )
    (tmp_path / "my_script.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "my_broken_nets.py").write_text("def good(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert network_from_factory("my_own_nets:good").out_channels == 2
    for path, message in {
        "my_own_nets:bad": "it gave 3",
        "my_own_nets:failing": "the factory 'my_own_nets:failing' failed: ZeroDivisionError",
        "my_own_nets:leaving": "the factory 'my_own_nets:leaving' failed: SystemExit: 0",
        "my_script:good": "cannot import 'my_script' .*SystemExit: 0",
        "my_broken_nets:good": "cannot import 'my_broken_nets' .*SyntaxError",
        "my_own_nets:absent": "has no 'absent'",
        "absent_package.nets:good": "cannot import 'absent_package.nets'",
        "my_own_nets": "package.module:factory",
    }.items():
        with pytest.raises(NetworkError, match=message):
            network_from_factory(path)
