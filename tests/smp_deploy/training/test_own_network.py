"""Networks of one's own: trained, written, loaded and judged like those that come along."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

from converters.checkpoints import checkpoint_from_file
from converters.graphs.stages import IMAGENET_MEAN, IMAGENET_STD
from engines.errors import CheckpointError, InputError, NetworkError
from smp_deploy.cli.app import app
from smp_deploy.cli.export import _trained_classes
from smp_deploy.datasets import Scenes
from smp_deploy.datasets.base import DatasetInfo
from smp_deploy.evaluation import NetworkPredictor
from smp_deploy.training import Augmentation, Observer, Run, Trainer, TrainingConfig, Validation, network_from_weights
from smp_deploy.training.sources import network_from_config
from smp_deploy.training.steps import validate
from smp_deploy.training.weights import WeightsInfo, classes_of, save_weights
from tests.networks import UnevenNetwork

MODEL = "tests.networks:uneven_for_scenes"
FAST = ("--dataset", "scenes", "--epochs", "1", "--batch", "50", "--crop", "24x32", "--threads", "1")
TRAIN, VAL = Scenes("train", size=(36, 64), count=12), Scenes("val", size=(36, 64), count=2)


def _run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result


def _config(**changes):
    plain = {"model": MODEL, "epochs": 1, "batch": 4, "augmentation": Augmentation(crop=(24, 32))}
    return TrainingConfig(**{**plain, **changes})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    output = tmp_path_factory.mktemp("own") / "a.safetensors"
    torch.manual_seed(0)
    result = _run("train", *FAST, "--model", MODEL, "--learning-rate", "1e-3", "-o", output, "--json")
    assert json.loads(result.stdout)["step"] == 4
    assert f"{MODEL} on 200 frames of scenes" in result.stderr
    return output


def test_a_checkpoint_names_the_model_and_no_architecture(checkpoint):
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["model"] == MODEL
    assert not {"arch", "width"} & metadata.keys()


def test_a_file_alone_makes_no_code_run(checkpoint):
    with pytest.raises(CheckpointError, match=f'a file alone makes no code run; name its factory: model="{MODEL}"'):
        _run("evaluate", checkpoint, "--dataset", "scenes")


def test_a_name_that_is_no_factory_is_not_shown_as_one(checkpoint, tmp_path):
    with safe_open(checkpoint, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(checkpoint), tmp_path / "b.safetensors", {**metadata, "model": "a:b; rm -r"})
    with pytest.raises(CheckpointError, match="do not say which network"):
        network_from_weights(tmp_path / "b.safetensors")


def test_a_checkpoint_is_evaluated(checkpoint):
    result = _run(
        "evaluate",
        checkpoint,
        "--model",
        MODEL,
        "--dataset",
        "scenes",
        "--limit",
        "1",
        "--threads",
        "1",
        "--json",
    )
    assert json.loads(result.stdout)["frames"] == 1


@pytest.mark.parametrize("size", [(36, 64), (31, 50)])
def test_its_labels_are_those_of_the_network_itself(checkpoint, size):
    network, _ = network_from_weights(checkpoint, MODEL)
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    predictor = NetworkPredictor(network)
    assert predictor.window == (3, 2)
    padded = np.zeros((36, 64, 3), np.float32)
    padded[: size[0], : size[1]] = (frame / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    with torch.no_grad():
        expected = network(torch.from_numpy(padded.transpose(2, 0, 1))[None]).argmax(1)[0]
    np.testing.assert_array_equal(predictor.predict(frame), expected[: size[0], : size[1]].numpy())
    # One of six phases: every pixel of it is computed, and the others take the label of a neighbour.
    part = NetworkPredictor(network, phases=1).predict(frame)
    np.testing.assert_array_equal(part[::3, ::2], expected[: size[0] : 3, : size[1] : 2].numpy())
    with pytest.raises(InputError, match="1 to 6 phases can be computed; received 7"):
        NetworkPredictor(network, phases=7)


@pytest.mark.parametrize("dense_levels", [0, 3])
def test_it_learns(tmp_path, dense_levels):
    """Sky above, road below: the loss falls, whichever levels are shrunk."""
    measured = []
    config = _config(
        epochs=60, learning_rate=2e-2, dense_levels=dense_levels, batch=12, validation=Validation(every_epochs=30)
    )
    trainer = Trainer(config, TRAIN, VAL, Run(tmp_path / "a.safetensors"))
    trainer.fit(Observer(measured=measured.append), resume=False)
    assert measured[-1].loss < 0.8 * measured[0].loss
    assert measured[-1].mean_iou > 0.15  # one class for every pixel gives less than 0.07


def test_a_run_goes_on_where_it_was(tmp_path):
    def _interrupt(done, total):
        if done == 4:
            raise KeyboardInterrupt

    config = _config(epochs=2, learning_rate=1e-2)
    whole, broken = (Run(tmp_path / f"{name}.safetensors", save_every=1) for name in "ab")
    Trainer(config, TRAIN, VAL, whole).fit(Observer(), resume=False)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config, TRAIN, VAL, broken).fit(Observer(_interrupt), resume=False)
    Trainer(config, TRAIN, VAL, broken).fit(Observer(), resume=True)
    expected, received = load_file(whole.output), load_file(broken.output)
    assert expected.keys() == received.keys()
    assert all(torch.equal(expected[key], received[key]) for key in expected)


def resized() -> nn.Module:
    """A strided convolution without its split: logits smaller than the image."""
    return nn.Conv2d(3, 9, 3, stride=2, padding=1)


def branching() -> nn.Module:
    class _Branching(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    return _Branching()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "tests.networks:uneven_network"}, InputError, "has 5 classes, and scenes has 9: sky, "),
        (
            {"augmentation": Augmentation((32, 32))},
            InputError,
            r"crop= must be multiples of 6x16; received \(32, 32\)",
        ),
        ({"dense_levels": 4}, InputError, "dense_levels= must be 0 to 3; received 4"),
        (
            {"model": f"{__name__}:resized"},
            NetworkError,
            r"logits of \(4, 9, 12, 16\) for labels of \(4, 24, 32\)",
        ),
        ({"model": f"{__name__}:branching"}, NetworkError, "_Branching cannot be traced"),
        ({"model": "tests.networks:nobody"}, NetworkError, "has no 'nobody'"),
    ],
)
def test_what_does_not_fit_is_said_before_the_first_step(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        Trainer(_config(**changes), TRAIN, VAL, Run(tmp_path / "a.safetensors"))


TRACES: list[str] = []


def counting() -> nn.Module:
    """Notes every time that Python runs its forward pass: a form that was traced does not."""

    class _Counting(UnevenNetwork):
        def forward(self, x):
            TRACES.append(type(x).__name__)
            return super().forward(x)

    return _Counting(classes=9)


def test_a_network_is_traced_once_to_see_whether_it_fits_and_once_to_judge_it():
    TRACES.clear()
    network = network_from_config(_config(model=f"{__name__}:counting"), TRAIN.info)
    assert TRACES == ["Placeholder"]
    matrix = validate(network, VAL, phases=1, device=torch.device("cpu"))
    assert TRACES == ["Placeholder"] * 2
    # One of the 96 elements of the windows, of two frames of 36x64.
    assert matrix.counts.sum() == 2 * 36 * 64 // 96


def test_one_network_is_named():
    for other in ({"arch": "smp-resnet18"}, {"width": 8}):
        with pytest.raises(InputError, match=f'model="{MODEL}" one of your own; give the one or the other'):
            TrainingConfig(model=MODEL, **other)


def test_a_known_architecture_needs_no_model(tmp_path):
    output = tmp_path / "a.safetensors"
    config = TrainingConfig(width=2, epochs=1, batch=4, augmentation=Augmentation((32, 64)))
    Trainer(config, TRAIN, VAL, Run(output)).fit(Observer(), resume=False)
    with pytest.raises(InputError, match=f'weights of smp-resnet18, which needs no model=; received model="{MODEL}"'):
        network_from_weights(output, MODEL)


def test_a_checkpoint_of_another_network_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match=r"does not fit the network: 2 of another shape: head\.weight"):
        network_from_weights(checkpoint, "tests.networks:uneven_network")


def test_the_classes_of_a_checkpoint_are_those_that_it_was_trained_for(tmp_path):
    tensors = {"head.weight": torch.zeros(2, 1, 1, 1)}
    dataset = DatasetInfo("folder", ("road", "Straße"), ((1, 2, 3), (4, 5, 6)), 255, ())
    path = tmp_path / "a.safetensors"
    save_weights(path, tensors, WeightsInfo(dataset, None, None, "a.b:c"))
    loaded = checkpoint_from_file(path)
    assert [(held.name, held.color) for held in classes_of(loaded)] == [("road", (1, 2, 3)), ("Straße", (4, 5, 6))]
    assert [held.name for held in _trained_classes(loaded, None)] == ["road", "Straße"]
    assert _trained_classes(loaded, 3) is None
    assert _trained_classes(None, None) is None
    save_file(tensors, tmp_path / "b.safetensors")
    assert _trained_classes(checkpoint_from_file(tmp_path / "b.safetensors"), None) is None
    hidden = DatasetInfo("folder", ("road", "a\x1b[2J"), dataset.colours, 255, ())
    save_weights(tmp_path / "c.safetensors", tensors, WeightsInfo(hidden, None, None, "a.b:c"))
    with pytest.raises(InputError, match=r"c\.safetensors, class 1"):
        classes_of(checkpoint_from_file(tmp_path / "c.safetensors"))
