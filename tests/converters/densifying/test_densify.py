"""The dense network as a network: its state dict, its modes, its copies, its export, its training."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import smp_deploy
from converters.analysis.network import traced_network
from converters.densifying import DenseNetwork, Densification, Upsampling, densify
from converters.exporting import export
from converters.graphs.stages import Normalization, Normalize
from converters.networks import network_from_arch
from converters.pooling import SplitPool2d
from converters.rewriting.sampling import sampled_from_network
from engines import Session
from engines.bundle.manifest import DensifiedRecord
from tests.networks import with_statistics
from tests.strided import Conv, DeepLab, UNet, noise, relative, with_values


def logits(bundle_logits: np.ndarray, network: nn.Module, frame: np.ndarray, padded: tuple[int, int]) -> float:
    """How far a prediction is from PyTorch's."""
    height, width = frame.shape[:2]
    x = torch.zeros(1, 3, *padded)
    x[..., :height, :width] = Normalize(Normalization())(torch.from_numpy(frame))
    with torch.inference_mode():
        return relative(torch.from_numpy(bundle_logits), network(x)[0, :, :height, :width])


@pytest.mark.parametrize("network", [DeepLab(), UNet(), network_from_arch("fcn8s-resnet18", width=4)])
def test_a_checkpoint_of_the_strided_network_is_one_of_the_dense(network: nn.Module) -> None:
    dense, _ = densify(network, (64, 64))
    before = network.state_dict()
    assert dense.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())
    other = {key: torch.ones_like(value) for key, value in before.items()}
    dense.load_state_dict(other, strict=True)
    assert all(bool((value == 1).all()) for value in dense.state_dict().values())


def test_what_computes_a_weight_stays() -> None:
    network = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3, 2, 1)), nn.Conv2d(4, 2, 1)).double().eval()
    dense, _ = densify(network, (16, 24))
    assert dense.state_dict().keys() == network.state_dict().keys()
    with torch.no_grad():
        for held in (network, dense):
            held.get_parameter("0.parametrizations.weight.original0").mul_(2)
        x = noise((16, 24))
        assert relative(dense(x)[..., ::2, ::2], network(x)) <= 1e-10


def test_the_strided_network_stays_and_shares_nothing() -> None:
    network = with_values(DeepLab()).train()
    network.layer2.eval()
    strides = {path: layer.stride for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    before = copy.deepcopy(network.state_dict())
    dense, _ = densify(network, (40, 48))
    assert dense.training
    assert not dense.get_submodule("layer2.bn1").training
    assert dense.get_submodule("stem.1").training
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert strides == {path: layer.stride for path, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}


def test_a_copy_is_whole() -> None:
    dense, _ = densify(with_values(DeepLab()), (40, 48), upsampling="merge")
    copied = copy.deepcopy(dense)
    assert isinstance(copied, DenseNetwork)
    assert copied.state_dict().keys() == dense.state_dict().keys()
    assert "aux.weight" in copied.state_dict()
    assert (copied.size_multiple, copied.densification) == ((8, 8), Densification(upsampling=Upsampling.MERGE))
    x = noise((40, 48))
    with torch.no_grad():
        assert torch.equal(copied(x), dense(x))


def test_branches_share_the_split_of_their_level() -> None:
    dense, report = densify(network_from_arch("fcn32s-resnet18", width=4), (64, 64), upsampling="merge")
    splits = [layer for layer in dense.modules() if isinstance(layer, SplitPool2d)]
    assert len(splits) == len(report.windows) == 5
    # In training mode all of them shrink at one offset a level: one pixel of every window is computed.
    dense.train()
    sparse = dense(torch.randn(2, 3, 64, 64))
    assert int((sparse != 0).any(1).sum()) == 2 * 2 * 2


def test_steps_of_training_shrink_and_have_gradients() -> None:
    network = with_values(DeepLab())
    dense, _ = densify(network, (40, 48), upsampling="merge")
    sampled = sampled_from_network(traced_network(dense, shared=True), 3)
    x, offsets = noise((40, 48)), [(1, 0), (0, 1), (1, 1)]
    found = sampled.logits(x, offsets)
    with torch.no_grad():
        row, column = 1 + 0 + 4, 0 + 2 + 4
        assert relative(found, dense(x)[..., row::8, column::8]) <= 1e-10
    found.square().mean().backward()
    named = dict(dense.named_parameters())
    assert all(named[key].grad is not None for key in named if not key.startswith("aux."))


@pytest.mark.parametrize(("upsampling", "levels"), [("merge", 2), ("kernel", 0)])
def test_a_dense_network_is_exported_as_any(upsampling: str, levels: int, tmp_path: Path) -> None:
    pools = (nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2))
    resized = nn.Upsample(scale_factor=8, mode="bilinear")
    network = with_statistics(lambda: nn.Sequential(Conv(3, 8, 2), *pools, nn.Conv2d(8, 4, 1), resized), 3)
    dense, report = densify(network, (45, 64), upsampling=upsampling)
    bundle = export(
        dense, tmp_path / "b", size=(45, 64), outputs="logits", levels=levels, lowerings="reshape", precisions="fp32"
    )
    record = bundle.manifest.network
    assert record.densified == DensifiedRecord(upsampling=upsampling)
    assert record.source == "torch.nn.modules.container.Sequential"
    assert bundle.manifest.input.padded_size == report.padded_size == (48, 64)
    frame = np.random.default_rng(0).integers(0, 256, (45, 64, 3), dtype=np.uint8)
    with Session.open(bundle) as session:
        assert logits(session.predict(frame), dense, frame, report.padded_size) <= 1e-5


def test_the_library_has_it() -> None:
    assert smp_deploy.densify is densify
    assert issubclass(smp_deploy.DensifyReport, object)


def test_a_report_is_a_table_and_a_document() -> None:
    _, report = densify(network_from_arch("fcn32s-resnet18", width=4).eval(), (50, 64))
    lines = str(report).splitlines()
    assert lines[0].split() == ["layer", "kind", "level", "in", "the", "dense", "network"]
    assert lines[1].split(maxsplit=1) == [
        "conv1",
        "Conv2d 7x7, stride 2     0      dense   stride 1, then split by 2x2",
    ]
    assert lines[9].startswith(
        "interpolate            interpolate, bilinear    5      merged  merged by 32x32, then its "
    )
    assert "Frames of 50x64 are padded to 64x64, multiples of 32x32." in lines
    assert "A loop can walk none of the 5 levels, since the phases meet in its kernel" in str(report)
    document = report.as_document()
    assert document["function"] == "mean of shifts"
    assert document["windows"] == [[2, 2]] * 5
    assert document["layers"][0] == {
        "name": "conv1",
        "kind": "Conv2d 7x7, stride 2",
        "fate": "dense",
        "done": "stride 1, then split by 2x2",
        "level": 0,
    }
    assert report.counts() == {"dense": 8, "merged": 1}
    assert 0 < report.difference < 1e-13
