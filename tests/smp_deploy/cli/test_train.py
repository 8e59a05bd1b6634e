"""``smp-deploy train`` and ``evaluate``, as a user runs them."""

from __future__ import annotations

import json
import math
import resource
import shutil
import warnings

import numpy as np
import pytest
import typer
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from engines.errors import BackendError, CheckpointError, DatasetError, InputError, OutputError
from smp_deploy.cli.app import app, command_named
from smp_deploy.cli.train import config_from_options
from smp_deploy.training import TrainingConfig, network_from_weights

FAST = ("--dataset", "scenes", "--width", "2", "--epochs", "1", "--batch", "50", "--crop", "32x32", "--threads", "1")


def _run(command, *arguments):
    result = CliRunner().invoke(app, [command, *map(str, arguments)], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    output = tmp_path_factory.mktemp("trained") / "a.safetensors"
    result = _run("train", *FAST, "-o", output, "--json")
    assert json.loads(result.stdout)["step"] == 4
    return output


def test_defaults_are_the_papers_protocol():
    context = command_named("train").make_context("train", ["--dataset", "camvid", "-o", "a.safetensors"])
    config = config_from_options(context.params)
    assert config == TrainingConfig()
    assert (config.learning_rate, config.weight_decay, config.batch) == (1e-5, 5e-4, 10)
    assert config.augmentation.crop == (512, 512)
    assert config.optimizer.value == "adam"


def test_every_option_reaches_the_configuration():
    arguments = {
        "--arch": "fcn8s-resnet34",
        "--width": "8",
        "--epochs": "3",
        "--batch": "4",
        "--accumulate": "2",
        "--optimizer": "adamw",
        "--learning-rate": "0.1",
        "--weight-decay": "0.2",
        "--schedule": "cosine",
        "--clip-norm": "1",
        "--averaging": "0.9",
        "--class-weighting": "0.3",
        "--lovasz": "0.6",
        "--dense-levels": "2",
        "--precision": "bf16",
        "--seed": "5",
        "--crop": "64x96",
        "--flip": "0.1",
        "--aspect": "0.2",
        "--jitter": "0.4",
        "--validate-every": "7",
        "--patience": "8",
    }
    flat = [part for pair in arguments.items() for part in pair]
    parsed = (
        command_named("train").make_context("train", ["--dataset", "x", "-o", "y", "--scale", "0.5", "2", *flat]).params
    )
    config, default = config_from_options(parsed), TrainingConfig()
    for name in ("arch", "width", "epochs", "batch", "accumulate", "optimizer", "learning_rate", "weight_decay"):
        assert getattr(config, name) != getattr(default, name), name
    for name in ("schedule", "clip_norm", "averaging", "dense_levels", "precision", "seed"):
        assert getattr(config, name) != getattr(default, name), name
    assert (config.augmentation.crop, config.augmentation.scale) == ((64, 96), (0.5, 2.0))
    assert (config.augmentation.flip, config.augmentation.aspect, config.augmentation.jitter) == (0.1, 0.2, 0.4)
    assert (config.loss.class_weighting, config.loss.lovasz) == (0.3, 0.6)
    assert (config.validation.every_epochs, config.validation.patience) == (7, 8)


def test_weights_say_what_they_are(checkpoint):
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    assert (metadata["arch"], metadata["width"], metadata["classes"]) == ("smp-resnet18", "2", "9")
    network, info = network_from_weights(checkpoint)
    assert info.dataset.classes[5] == "pole"
    assert json.loads(info.training)["epochs"] == 1
    assert not network.training


def test_a_checkpoint_is_evaluated(checkpoint, tmp_path):
    common = ("--dataset", "scenes", "--limit", "2", "--threads", "1")
    result = _run("evaluate", checkpoint, *common, "-o", tmp_path / "found", "--pictures", "1", "--json")
    document = json.loads(result.stdout)
    assert document["frames"] == 2
    assert sorted(path.suffix for path in (tmp_path / "found").iterdir()) == [".csv", ".csv", ".json", ".png", ".png"]
    table = _run("evaluate", checkpoint, *common, "--phases", "1").stdout
    assert "thin objects (*)" in table


def test_fcn32s_starts_from_smp_and_the_other_way_round(checkpoint, tmp_path):
    output = tmp_path / "b.safetensors"
    # A learning rate too small to move anything shows where the run started from.
    tiny = ("--learning-rate", "1e-30", "--arch", "fcn32s-resnet18", "--init-from", checkpoint)
    result = _run("train", *FAST, *tiny, "-o", output)
    assert "started from" in result.stderr
    have, want = load_file(output), load_file(checkpoint)
    assert all((have[key] == want[key]).all() for key in want if "running" not in key and "num_batches" not in key)


def test_another_number_of_classes_leaves_the_head_fresh(checkpoint, tmp_path):
    import torch
    from safetensors.torch import save_file

    state = load_file(checkpoint)
    state["head.weight"], state["head.bias"] = torch.zeros(4, 16, 1, 1), torch.zeros(4)
    state["fc.weight"] = torch.zeros(1000, 16)
    save_file(state, tmp_path / "other.safetensors")
    arguments = (*FAST, "-o", tmp_path / "c.safetensors", "--init-from", tmp_path / "other.safetensors")
    assert "fresh: head.weight, head.bias" in _run("train", *arguments).stderr


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--init-from", "absent.pt"), CheckpointError, "cannot read the checkpoint absent.pt"),
        (("--width", "4", "--init-from", "CHECKPOINT"), CheckpointError, r"has shape .*is the width another one's\?"),
        (("--batch", "201"), InputError, "a batch of 201 needs as many training frames; the dataset has 200"),
        (("--dataset", "camvid"), DatasetError, "name it with --root"),
        (("--dense-levels", "6"), InputError, "--dense-levels must be 0 to 5; received 6"),
        (("--accumulate", "9"), InputError, "leaves no step"),
        (("--precision", "fp16"), InputError, "fp16 training needs --device cuda"),
        (("--crop", "100x64"), InputError, "--crop must be multiples of 32"),
        (("--model", "a.b:c"), InputError, "--arch and --width name a known network, --model a.b:c one of your own"),
        (("--validate-every", "0"), InputError, "--validate-every must be 1 to 1000000; received 0"),
        (("--seed", "4294967296"), InputError, "--seed must be 0 to 4294967295; received 4294967296"),
        (("--batch", "1"), InputError, "--batch 1 with --crop 32x32 leaves the last batch norms one element"),
        (("--scale", "1", "inf"), typer.BadParameter, "inf is no finite number"),
        (("--threads", "99999"), typer.BadParameter, "99999 is not in the range 1<=x<=1024"),
        (("--workers", "99999"), typer.BadParameter, "99999 is not in the range 0<=x<=256"),
        (("--output", "CHECKPOINT", "--resume", "--width", "4"), CheckpointError, "width: 2, now 4"),
        (("--output", "weights.pt"), OutputError, "written as .safetensors"),
    ],
)
def test_mistakes_are_answered(checkpoint, tmp_path, arguments, error, message):
    named = [str(checkpoint) if argument == "CHECKPOINT" else argument for argument in arguments]
    with pytest.raises(error, match=message):
        _run("train", *FAST, "-o", tmp_path / "d.safetensors", *named)


FLOATS = [option.opts[0] for option in command_named("train").params if option.type.name in ("float", "float range")]


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("option", [*FLOATS, "--scale"])
def test_every_figure_is_finite(tmp_path, option, number):
    assert len(FLOATS) == 9
    values = ("1", number) if option == "--scale" else (number,)
    with pytest.raises(typer.BadParameter) as caught:
        _run("train", *FAST, "-o", tmp_path / "d.safetensors", option, *values)
    assert caught.value.param.opts[0] == option


def test_existing_weights_are_not_overwritten(checkpoint, tmp_path):
    mine = tmp_path / "mine.safetensors"
    shutil.copy(checkpoint, mine)
    before = mine.read_bytes()
    for more in ((), ("--init-from", mine), ("--resume",)):
        with pytest.raises(OutputError, match="exists already, and is not of this run; choose another output"):
            _run("train", *FAST, "-o", mine, *more)
    assert mine.read_bytes() == before


def test_a_dataset_without_thin_classes(tmp_path):
    for split in ("train", "val"):
        for part, channels in (("images", (3,)), ("labels", ())):
            (tmp_path / split / part).mkdir(parents=True)
            for number in range(3):
                pixels = np.random.default_rng(number).integers(0, 2, (32, 32, *channels), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / part / f"{number}.png")
    (tmp_path / "classes.json").write_text('{"classes": ["a", "b"]}')
    folder = ("--dataset", "folder", "--root", tmp_path, "--batch", "2", "-o", tmp_path / "a.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = _run("train", *FAST, *folder, "--json")
    document = json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["thin_iou"] is None
    assert 0 <= document["mean_iou"] <= 1
    assert "mean IoU" in result.stderr
    assert "thin" not in result.stderr
    assert "nan" not in result.stderr.lower()
    header, row = (tmp_path / "a.run" / "metrics.csv").read_text().splitlines()
    assert header.endswith(",mean_iou,thin_iou")
    assert row.endswith(f"{document['mean_iou']},")
    assert all(b"thin_iou" not in path.read_bytes() for path in (tmp_path / "a.run" / "events").iterdir())
    # What is undefined stays so in the state: a resume gives the same document.
    assert json.loads(_run("train", *FAST, *folder, "--json", "--resume").stdout) == document


def test_a_dataset_with_thin_classes(checkpoint):
    header, row = ((checkpoint.parent / "a.run" / "metrics.csv").read_text()).splitlines()
    assert all(math.isfinite(float(value)) for value in row.split(","))
    assert header.split(",")[-1] == "thin_iou"


def test_a_device_that_is_not_there(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="PyTorch sees no CUDA device"):
        _run("train", *FAST, "-o", tmp_path / "d.safetensors", "--device", "cuda")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--backend", "onnxruntime"), InputError, "backend= is for a bundle"),
        (("--model", "a.b:c"), InputError, "holds the weights of smp-resnet18, which needs no --model"),
        (("--dataset", "gta5", "--root", "."), DatasetError, "images is missing"),
        (("--split", "test"), DatasetError, "scenes has the splits train, val"),
    ],
)
def test_mistakes_of_an_evaluation_are_answered(checkpoint, arguments, error, message):
    with pytest.raises(error, match=message):
        _run("evaluate", checkpoint, "--dataset", "scenes", *arguments)


def test_where_the_results_cannot_go_is_said_before_the_first_frame(checkpoint, tmp_path):
    (tmp_path / "file").touch()
    common = ("evaluate", checkpoint, "--dataset", "scenes", "--limit", "1", "-o")
    with pytest.raises(OutputError, match="file is a file; results go into a folder"):
        _run(*common, tmp_path / "file")
    with pytest.raises(OutputError, match=r"cannot write to .*below: Not a directory"):
        _run(*common, tmp_path / "file" / "below")


@pytest.mark.parametrize(("as_json", "bytes_", "name"), [((), 1000, "evaluation.json"), (("--json",), 4000, "best-1")])
def test_a_result_outlives_a_full_disk(checkpoint, tmp_path, as_json, bytes_, name):
    """A real refusal by the operating system: no file may be longer than ``bytes_``."""
    output, runner = tmp_path / "found", CliRunner()
    arguments = [str(checkpoint), "--dataset", "scenes", "--limit", "1", "--threads", "1", "-o", str(output), *as_json]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, before[1]))
    try:
        result = runner.invoke(app, ["evaluate", *arguments], standalone_mode=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert isinstance(result.exception, OutputError)
    assert str(result.exception).startswith(f"cannot write {output / name}")
    assert (json.loads(result.stdout)["frames"] == 1) if as_json else ("thin objects (*)" in result.stdout)
    left = sorted(path.name for path in output.iterdir())
    assert left == (["classes.csv", "confusion.csv", "evaluation.json"] if as_json else [])
    assert "wrote" not in result.stderr


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        _run("evaluate", tmp_path / "a.safetensors", "--dataset", "scenes")
    with pytest.raises(InputError, match="threads= is for a checkpoint"):
        _run("evaluate", tmp_path, "--dataset", "scenes", "--threads", "1")
    with pytest.raises(InputError, match="model= is for a checkpoint"):
        _run("evaluate", tmp_path, "--dataset", "scenes", "--model", "a.b:c")
