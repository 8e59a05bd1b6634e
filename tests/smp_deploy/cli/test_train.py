"""``smp-deploy train`` and ``evaluate``, as a user runs them."""

from __future__ import annotations

import json
import math
import os
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

from engines.errors import InputError, OutputError
from smp_deploy import evaluate
from smp_deploy.cli.app import app, command_named
from smp_deploy.cli.train import config_from_options
from smp_deploy.training import TrainingConfig, network_from_weights
from tests.conftest import overriding

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


def _refused(result, code, message):
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert message in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--init-from", "absent.pt"), "cannot read the checkpoint absent.pt"),
        (
            ("--width", "4", "--init-from", "CHECKPOINT"),
            "of another shape: conv1.weight (2, 3, 7, 7) instead of (4, 3, 7, 7)",
        ),
        (("--batch", "201"), "needs as many training frames; the dataset has 200. Choose a smaller --batch\n"),
        (("--dataset", "camvid"), "name it with --root\n"),
        (("--dense-levels", "6"), "--dense-levels must be 0 to 5; received 6"),
        (("--accumulate", "9"), "smp-deploy: --accumulate 9 leaves no step in 1 epochs; use less"),
        (("--precision", "fp16"), "fp16 training needs --device cuda; on"),
        (("--crop", "100x64"), "--crop must be multiples of 32"),
        (("--model", "a.b:c"), "--arch and --width name a known network, --model a.b:c one of your own"),
        (("--learning-rate", "0"), "--learning-rate must be in (0, 1e+30]; received 0.0"),
        (("--validate-every", "0"), "--validate-every must be 1 to 1000000; received 0"),
        (("--seed", "4294967296"), "--seed must be 0 to 4294967295; received 4294967296"),
        (("--batch", "1"), "--batch 1 with --crop of 32x32 leaves the last batch norms one element"),
        (("--scale", "1", "inf"), "inf is no finite number"),
        (("--threads", "99999"), "99999 is not in the range 1<=x<=1024"),
        (("--workers", "99999"), "99999 is not in the range 0<=x<=256"),
        (("--output", "CHECKPOINT", "--resume", "--width", "4"), "width: 2, now 4"),
        (("--output", "CHECKPOINT"), "holds a run already; continue it with --resume, or choose another output"),
        (("--output", "weights.pt"), "written as .safetensors"),
    ],
)
def test_mistakes_are_answered(cli, checkpoint, tmp_path, arguments, message):
    named = [str(checkpoint) if argument == "CHECKPOINT" else argument for argument in arguments]
    _refused(
        cli("train", *overriding((*FAST, "--output", tmp_path / "d.safetensors"), *named), cwd=tmp_path), 2, message
    )


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
        result = _run("train", *overriding(FAST, *folder), "--json")
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
    assert json.loads(_run("train", *overriding(FAST, *folder), "--json", "--resume").stdout) == document


def test_a_dataset_with_thin_classes(checkpoint):
    header, row = ((checkpoint.parent / "a.run" / "metrics.csv").read_text()).splitlines()
    assert all(math.isfinite(float(value)) for value in row.split(","))
    assert header.split(",")[-1] == "thin_iou"


def test_a_device_that_is_not_there(cli, tmp_path):
    without = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = cli("train", *FAST, "-o", tmp_path / "d.safetensors", "--device", "cuda", env=without)
    _refused(result, 3, "PyTorch sees no CUDA device; use --device cpu\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--backend", "onnxruntime"), "smp-deploy: --backend is for a bundle"),
        (("--model", "a.b:c"), "holds the weights of smp-resnet18, which needs no --model; received --model a.b:c"),
        (("--dataset", "gta5", "--root", "."), "images is missing"),
        (("--split", "test"), "scenes has the splits train, val"),
    ],
)
def test_mistakes_of_an_evaluation_are_answered(cli, checkpoint, arguments, message):
    _refused(cli("evaluate", checkpoint, *overriding(("--dataset", "scenes"), *arguments)), 2, message)


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


def test_what_is_no_checkpoint(cli, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no")
    _refused(cli("evaluate", tmp_path / "a.safetensors", "--dataset", "scenes"), 2, "is truncated or no checkpoint")


@pytest.mark.parametrize(
    ("argument", "option"), [({"threads": 1}, ("--threads", 1)), ({"model": "a.b:c"}, ("--model", "a.b:c"))]
)
def test_what_is_for_a_checkpoint_alone(cli, exported, argument, option):
    result = cli("evaluate", exported.path, "--dataset", "scenes", *option)
    _refused(result, 2, f"smp-deploy: {option[0]} is for a checkpoint; {exported.path} is none\n")
    (name,) = argument
    with pytest.raises(InputError, match=f"^{name}= is for a checkpoint"):
        evaluate(exported.path, "scenes", **argument)
