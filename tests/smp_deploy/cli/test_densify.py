"""``smp-deploy densify``, ``export --densify``, ``train --densify``: what they say, and what a bundle keeps of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from converters.densifying import Densification, densified
from engines import Bundle
from engines.bundle.manifest import DensifiedRecord
from smp_deploy.training import network_from_weights
from tests.conftest import Cli, document
from tests.strided import fcn

FACTORY = "tests.strided:fcn"
LEAN = ("--size", "48x64", "--precision", "fp32", "--levels", "2", "--lowering", "reshape")


def test_a_look_at_every_layer(cli: Cli) -> None:
    result = cli("densify", "--model", FACTORY, "--size", "45x64", "--upsampling", "merge")
    assert result.returncode == 0, result.stderr
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "0.0 Conv2d 3x3, stride 2 0 dense stride 1, then split by 2x2" in rows
    assert "4 Upsample, bilinear 3 merged merged by 8x8" in rows
    assert "A loop can walk all 3 levels, so that memory is bounded." in rows
    found = document(cli("densify", "--model", FACTORY, "--size", "45x64", "--json"))
    assert (found["function"], found["walkable_levels"]) == ("mean of shifts", 0)
    assert found["options"] == {"until": None, "upsampling": None, "max_pool": "dense"}
    assert found["padded_size"] == [48, 64]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("densify", "--size", "64x64"), "name the network, either with --arch or with --model"),
        (
            ("densify", "--arch", "smp-resnet18", "--size", "64x64"),
            "split (split) is a pooling layer: the network is dense as it is",
        ),
        (("densify", "--model", FACTORY, "--size", "48x64", "--until", "9"), "--until 9 is no module that the network"),
        (("export", "--model", FACTORY, *LEAN, "--until", "0", "-o", "b"), "--until is for --densify"),
        (("export", "--model", FACTORY, *LEAN, "--max-pool", "split", "-o", "b"), "--max-pool is for --densify"),
        (
            ("train", "--model", FACTORY, "--dataset", "scenes", "--upsampling", "merge", "-o", "a.safetensors"),
            "--upsampling is for --densify",
        ),
    ],
)
def test_what_does_not_fit_together(cli: Cli, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    result = cli(*words, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_bundle_says_how_it_was_made_dense_and_is_proven_by_that(cli: Cli, tmp_path: Path) -> None:
    """The factory and the checkpoint are those of the strided network; validate makes it dense again."""
    network = fcn()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    save_file(network.state_dict(), tmp_path / "strided.safetensors")
    named = ("--model", FACTORY, tmp_path / "strided.safetensors")
    options = ("--densify", "--upsampling", "merge", "--max-pool", "split")
    result = cli("export", *named, *LEAN, *options, "-o", tmp_path / "dense")
    assert result.returncode == 0, result.stderr
    assert "maps at phase (0, 0) equal the strided network's" in result.stderr
    assert "made dense" in result.stdout
    manifest = Bundle.open(tmp_path / "dense").manifest
    assert manifest.network.source == FACTORY
    assert manifest.network.densified == DensifiedRecord(upsampling="merge", max_pool="split")
    checked = ("validate", tmp_path / "dense", "--quick", "--model", FACTORY)
    found = document(cli(*checked, "--checkpoint", tmp_path / "strided.safetensors", "--json"))
    origins = [check for check in found["checks"] if check["kind"] == "provenance"]
    assert [check["status"] for check in origins] == ["passed"]
    assert {check["status"] for check in found["checks"]} == {"passed", "not run"}
    other = cli(*checked)
    assert other.returncode == 1
    assert "other parameters" in other.stdout + other.stderr


def test_an_ordinary_network_is_told_what_dense_gives(cli: Cli, tmp_path: Path) -> None:
    lean = ("--size", "48x64", "--precision", "fp32", "--levels", "0", "--lowering", "reshape")
    result = cli("export", "--model", FACTORY, *lean, "-o", tmp_path / "strided")
    assert result.returncode == 0, result.stderr
    assert "the network loses resolution at 0.0, 1, 2.conv1 and 1 more, and resizes back at 4" in result.stderr
    assert "smp_deploy.densify(network, size) makes each a layer of stride 1 with a split behind it" in result.stderr
    assert "add --densify; `smp-deploy densify` shows first what becomes of each layer" in result.stderr
    assert Bundle.open(tmp_path / "strided").manifest.network.densified is None


def test_it_is_trained_by_shrink_expand_steps(cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "dense.safetensors"
    fast = ("--dataset", "scenes", "--epochs", "1", "--batch", "50", "--crop", "32x32", "--threads", "1")
    result = cli("train", "--model", FACTORY, "--densify", *fast, "-o", output)
    assert result.returncode == 0, result.stderr
    assert "tests.strided:fcn, made dense on 200 frames" in result.stderr
    state, before = load_file(output), fcn().state_dict()
    assert state.keys() == before.keys()
    assert any(not torch.equal(value, before[key]) for key, value in state.items() if key.endswith("weight"))
    # What was trained dense is judged dense, and by the same form.
    network, info = network_from_weights(output, FACTORY)
    assert info.dense == (Densification.of(None, "merge", "dense"), (32, 32))
    strided = fcn()
    strided.load_state_dict(state)
    expected, _ = densified(strided.eval(), (32, 32), Densification.of(None, "merge", "dense"))
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(x), expected(x))
