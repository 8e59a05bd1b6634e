"""Checkpoints and labels as people have them, in every command that takes some."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engines import Bundle
from tests.conftest import Cli, document

CHEAP = ("--arch", "smp-resnet18", "--size", "64x96", "--precision", "fp32", "--levels", 2, "--lowering", "reshape")


@pytest.fixture
def trained(checkpoint: Path, tmp_path: Path) -> Path:
    """What a training loop with an average of the weights leaves."""
    mean = load_file(checkpoint)
    raw = {f"module.{key}": value + 1 if value.is_floating_point() else value for key, value in mean.items()}
    content = {"state_dict": raw, "model_ema": {f"module.{key}": value for key, value in mean.items()}, "epoch": 3}
    torch.save(content, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


@pytest.mark.usefixtures("trained")
def test_a_part_of_a_checkpoint_is_exported(cli: Cli, tmp_path: Path) -> None:
    said = cli("export", "last.ckpt", *CHEAP, "-o", "out", cwd=tmp_path)
    assert said.returncode == 2
    assert said.stderr.splitlines()[-1] == (
        "smp-deploy: last.ckpt holds 2 sets of weights that fit the network and differ: state_dict.module, "
        "model_ema.module; say which counts: --weights model_ema.module"
    )
    said = cli("export", "last.ckpt", *CHEAP, "--weights", "model_ema", "-o", "out", "--json", cwd=tmp_path)
    document(said)
    assert "last.ckpt: the weights are those under 'module'" in said.stderr
    network = Bundle.open(tmp_path / "out").manifest.network
    assert (network.width, len(Bundle.open(tmp_path / "out").manifest.classes)) == (8, 19)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("export", "CHECKPOINT", *CHEAP, "-o", "out", "--weights", "ema"),
            "has no --weights ema; its names begin with",
        ),
        (("export", "CHECKPOINT", *CHEAP, "-o", "out", "--strip-prefix", "net."), "has no names with 'net.'"),
        (("export", "--model", "a:b", "--size", "64x96", "-o", "out", "--weights", "a"), "are for a CHECKPOINT"),
        (("validate", "BUNDLE", "--checkpoint", "CHECKPOINT", "--weights", "ema"), "has no --weights ema; its names"),
        (("validate", "BUNDLE", "--strip-prefix", "net."), "--strip-prefix is for --checkpoint"),
        (("validate", "BUNDLE", "--backend", "onnxruntime", "--weights", "a"), "--weights is not for --backend"),
        (("evaluate", "CHECKPOINT", "--dataset", "scenes", "--weights", "ema"), "has no --weights ema; its names"),
        (("evaluate", "CHECKPOINT", "--dataset", "scenes", "--strip-prefix", "a"), "has no names with 'a'"),
        (("evaluate", "BUNDLE", "--dataset", "scenes", "--weights", "a"), "--weights is for a checkpoint"),
        (
            ("train", "--dataset", "scenes", "-o", "a.safetensors", "--init-from", "CHECKPOINT", "--weights", "ema"),
            "has no --weights ema; its names begin with",
        ),
        (
            ("train", "--dataset", "scenes", "-o", "a.safetensors", "--strip-prefix", "a"),
            "--weights and --strip-prefix are for --init-from, the checkpoint to start from",
        ),
    ],
)
def test_every_command_that_takes_a_checkpoint_is_told_the_part(
    cli: Cli, exported: Bundle, checkpoint: Path, tmp_path: Path, words: tuple[object, ...], message: str
) -> None:
    named = {"CHECKPOINT": checkpoint, "BUNDLE": exported.path}
    said = cli(*[named.get(word, word) for word in words], cwd=tmp_path)
    assert said.returncode == 2, said.stderr
    assert "Traceback" not in said.stderr
    assert message in said.stderr
    assert not (tmp_path / "out").exists()


def test_a_training_starts_from_the_weights_of_another_trainer(cli: Cli, trained: Path, tmp_path: Path) -> None:
    small = ("--dataset", "scenes", "--width", "8", "--epochs", "1", "--batch", "200", "--crop", "32x32")
    said = cli(
        "train", *small, "--threads", "1", "-o", "a.safetensors", "--init-from", "last.ckpt", "--weights", "model_ema",
        "--learning-rate", "1e-30", cwd=tmp_path,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert "last.ckpt: the weights are those under 'module'" in said.stderr
    # Scenes have 9 classes, the checkpoint 19.
    assert "started from last.ckpt; fresh: head.weight, head.bias" in said.stderr
    have, want = load_file(tmp_path / "a.safetensors"), torch.load(trained, weights_only=True)["model_ema"]
    assert torch.equal(have["layer4.1.conv2.weight"], want["module.layer4.1.conv2.weight"])
