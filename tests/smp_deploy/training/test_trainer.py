from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from converters.networks import network_from_arch
from engines.errors import CheckFailed, FrameError, InputError, MachineError, OutputError
from smp_deploy.datasets import CamVid, Example, Scenes
from smp_deploy.evaluation import NetworkPredictor, evaluate
from smp_deploy.training import (
    Augmentation,
    LearningRateSchedule,
    Loss,
    Observer,
    Optimizer,
    Run,
    Trainer,
    TrainingConfig,
    Validation,
    network_from_weights,
)
from smp_deploy.training.batches import DataOrder
from smp_deploy.training.config import differences, json_from_config
from smp_deploy.training.limits import machine_limits
from smp_deploy.training.steps import label_counts, learning_rate_at, validate
from tests.smp_deploy.datasets import trees

TRAIN, VAL = Scenes("train", size=(32, 64), count=12), Scenes("val", size=(32, 64), count=2)


def _config(**changes):
    plain = {"width": 2, "epochs": 2, "batch": 4, "augmentation": Augmentation(crop=(32, 64))}
    return TrainingConfig(**{**plain, **changes})


def test_training_learns(tmp_path):
    """Sky above, road below: enough steps of a tiny network tell them apart."""
    train, val = Scenes("train", size=(64, 96), count=16), Scenes("val", size=(64, 96), count=4)
    changes = {"width": 4, "epochs": 20, "learning_rate": 1e-2, "dense_levels": 3}
    config = _config(**changes, augmentation=Augmentation(crop=(64, 96)), validation=Validation(every_epochs=20))
    last = Trainer(config, train, val, Run(tmp_path / "a.safetensors")).fit(Observer(), resume=False)
    assert last.step == 80
    assert last.mean_iou > 0.25  # one class for every pixel gives less than 0.07


def test_accumulated_batches_are_one_large_batch_where_nothing_is_normalised(tmp_path, monkeypatch):
    """Batch norms depend on the batch; with them in evaluation mode both runs take the same step."""
    monkeypatch.setattr(torch.nn.BatchNorm2d, "train", lambda self, mode=True: torch.nn.Module.train(self, False))
    # Full crops of FCN32s have as many labelled pixels in every frame, so means of means are means.
    common = {"arch": "fcn32s-resnet18", "epochs": 1, "learning_rate": 1e-3, "augmentation": Augmentation((32, 64), 0)}
    weights = []
    for name, batch, accumulate in (("one", 12, 1), ("three", 4, 3)):
        output = tmp_path / f"{name}.safetensors"
        config = _config(batch=batch, accumulate=accumulate, **common)
        Trainer(config, TRAIN, VAL, Run(output)).fit(Observer(), resume=False)
        weights.append(load_file(output))
    for key, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][key], rtol=1e-3, atol=2e-5)


def test_the_average_is_what_is_kept(tmp_path):
    output = tmp_path / "a.safetensors"
    trainer = Trainer(_config(averaging=0.5, learning_rate=1e-2), TRAIN, VAL, Run(output))
    trainer.fit(Observer(), resume=False)
    kept, last = load_file(output), trainer.network.state_dict()
    assert not torch.equal(kept["conv1.weight"], last["conv1.weight"])


def test_patience_ends_a_run(tmp_path):
    output = tmp_path / "a.safetensors"
    # A learning rate too small to change a label: the second and third look bring nothing better.
    validation = Validation(every_epochs=1, patience=2)
    config = _config(epochs=50, learning_rate=1e-30, arch="fcn32s-resnet18", validation=validation)
    measured = []
    trainer = Trainer(config, TRAIN, VAL, Run(output))
    for module in trainer.network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    trainer.fit(Observer(measured=measured.append), resume=False)
    assert len(measured) == 3
    assert output.exists()


def test_with_patience_the_best_weights_are_kept_and_their_score_is_given(tmp_path):
    output = tmp_path / "a.safetensors"
    # A learning rate that leaps about, so that patience ends the run long before its epochs do.
    validation = Validation(every_epochs=1, patience=3)
    config = _config(epochs=60, learning_rate=0.3, arch="fcn32s-resnet18", validation=validation, seed=1)
    measured = []
    given = Trainer(config, TRAIN, VAL, Run(output)).fit(Observer(measured=measured.append), resume=False)
    best = max(measured, key=lambda measurement: measurement.mean_iou)
    assert given == best
    assert given != measured[-1]
    kept = evaluate(NetworkPredictor(network_from_weights(output)[0]), VAL).confusion
    assert kept.mean_iou == pytest.approx(best.mean_iou)


def test_a_frame_that_cannot_be_read_is_one_line_whoever_prepares_batches(tmp_path):
    root = trees.camvid(tmp_path / "camvid", frames=4)
    (root / "train" / "0001TP_000001.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    train, val = CamVid(root, "train"), CamVid(root, "val")
    for workers in (0, 1):
        trainer = Trainer(_config(), train, val, Run(tmp_path / f"{workers}.safetensors", workers=workers))
        with pytest.raises(FrameError) as caught:
            trainer.fit(Observer(), resume=False)
        assert str(caught.value).startswith(f"{root}/train/0001TP_000001.png is no image that can be read")
        assert "\n" not in str(caught.value)


class _Deadly:
    """Frames whose reading ends a worker, as the kernel does when memory runs out."""

    info = TRAIN.info

    def __init__(self) -> None:
        self._reader = os.getpid()

    def __len__(self) -> int:
        return len(TRAIN)

    def load(self, index: int) -> Example:
        if os.getpid() != self._reader:
            os.kill(os.getpid(), signal.SIGKILL)
        return TRAIN.load(index)


def test_a_worker_that_is_killed_is_named(tmp_path):
    trainer = Trainer(_config(), _Deadly(), VAL, Run(tmp_path / "a.safetensors", workers=1))
    with pytest.raises(MachineError, match="ended from outside, often for want of memory; use fewer workers="):
        trainer.fit(Observer(), resume=False)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_crop_that_no_memory_holds(tmp_path, workers):
    config = _config(augmentation=Augmentation(crop=(32 * 10**6, 32 * 10**6)))
    trainer = Trainer(config, TRAIN, VAL, Run(tmp_path / "a.safetensors", workers=workers))
    with pytest.raises(MemoryError, match="training needs more than is free; use a smaller batch="):
        trainer.fit(Observer(), resume=False)


def test_other_errors_of_torch_keep_their_words():
    with pytest.raises(RuntimeError, match="something else"), machine_limits():
        raise RuntimeError("something else")


def test_an_output_that_cannot_be_written_is_named_before_the_first_step(tmp_path):
    (tmp_path / "a.safetensors").mkdir()
    with pytest.raises(OutputError, match=r"a.safetensors is a directory; the weights are written to a file"):
        Trainer(_config(), TRAIN, VAL, Run(tmp_path / "a.safetensors")).fit(Observer(), resume=False)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write to .*file/a.run: Not a directory"):
        Trainer(_config(), TRAIN, VAL, Run(tmp_path / "file" / "a.safetensors")).fit(Observer(), resume=False)


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    run = Run(tmp_path / "a.safetensors")
    trainer = Trainer(_config(epochs=1, batch=12), TRAIN, VAL, run)
    trainer.network.head.bias.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(CheckFailed, match="the weights are no longer numbers after step 1; lower learning_rate="):
        trainer.fit(Observer(), resume=False)
    assert not run.state.exists()
    assert not run.output.exists()


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    config = _config(epochs=30, learning_rate=1e30)
    with pytest.raises(CheckFailed, match=r"the training loss is (nan|inf) at step \d+; lower learning_rate="):
        Trainer(config, TRAIN, VAL, Run(tmp_path / "a.safetensors")).fit(Observer(), resume=False)


def test_training_and_validation_have_the_same_classes(tmp_path):
    class _Other:
        info = None

    with pytest.raises(InputError, match="different classes"):
        Trainer(_config(), TRAIN, _Other(), Run(tmp_path / "a.safetensors"))


def test_an_epoch_shows_every_frame_once_and_another_order_each_time():
    order = DataOrder(frames=12, batch=4, seed=1)
    epochs = [[draw.frame for number in range(start, start + 3) for draw in order.batch_at(number)] for start in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]
    assert order.batch_at(4) == DataOrder(12, 4, 1).batch_at(4)


def test_cosine_schedule():
    config = _config(learning_rate=1.0, schedule=LearningRateSchedule.COSINE)
    rates = [learning_rate_at(config, step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(0.5 / 80)
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates.index(max(rates)) in range(79, 82)
    assert rates[540] == pytest.approx(0.5 * (1 + math.cos(math.pi * (540.5 - 80) / 920)))
    assert rates[-1] < 1e-5
    assert learning_rate_at(_config(learning_rate=0.3), 5, 10) == 0.3


def test_validation_is_an_unbiased_sample_of_full_evaluation():
    torch.manual_seed(0)
    network = network_from_arch("smp-resnet18", classes=9, width=2).eval()
    full = evaluate(NetworkPredictor(network), VAL).confusion.counts
    sampled = validate(network, VAL, phases=32, device=torch.device("cpu")).counts
    np.testing.assert_allclose(sampled / sampled.sum(), full / full.sum(), atol=0.02)
    # Drawn without repetition: as many draws as there are phases are the whole.
    np.testing.assert_array_equal(validate(network, VAL, phases=1000, device=torch.device("cpu")).counts, full)


def test_a_crop_is_a_multiple_of_what_the_network_needs(tmp_path):
    with pytest.raises(InputError, match=r"crop= must be multiples of 32x32; received \(100, 64\)"):
        Trainer(_config(augmentation=Augmentation((100, 64))), TRAIN, VAL, Run(tmp_path / "a.safetensors"))


def test_label_counts_by_a_plain_loop():
    expected = np.zeros(9, int)
    for index in range(len(VAL)):
        for label in VAL.load(index).labels.ravel():
            expected[label] += 1
    np.testing.assert_array_equal(label_counts(VAL), expected)


def test_differences_name_nested_fields():
    before, now = json_from_config(_config()), json_from_config(_config(augmentation=Augmentation(crop=(64, 64))))
    assert differences(before, before) == []
    assert differences(before, now) == ["augmentation.crop: [32, 64], now [64, 64]"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs= must be 1 to 1000000; received 0"),
        ({"epochs": 10**400}, "epochs= must be 1 to 1000000; received 10000"),
        ({"batch": 0}, "batch= must be at least 1; received 0"),
        ({"learning_rate": 0.0}, r"learning_rate= must be in \(0, 1e\+30\]; received 0.0"),
        ({"learning_rate": math.inf}, r"learning_rate= must be in \(0, 1e\+30\]; received inf"),
        ({"learning_rate": 1e39}, r"learning_rate= must be in \(0, 1e\+30\]; received 1e\+39"),
        ({"weight_decay": math.inf}, r"weight_decay= must be in \[0, 1e\+30\]; received inf"),
        ({"weight_decay": math.nan}, r"weight_decay= must be in \[0, 1e\+30\]; received nan"),
        ({"averaging": 1.0}, r"averaging= must be in \[0, 1\); received 1.0"),
        ({"clip_norm": 0.0}, r"clip_norm= must be in \(0, 1e\+30\]; received 0.0"),
        ({"clip_norm": math.inf}, "clip_norm= must be in"),
        ({"seed": -1}, "seed= must be 0 to 4294967295; received -1"),
        ({"seed": 2**32}, "seed= must be 0 to 4294967295; received 4294967296"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**changes)


def test_the_loss_and_the_validation_name_their_options():
    with pytest.raises(InputError, match=r"every_epochs= must be 1 to 1000000; received 0"):
        Validation(every_epochs=0)
    with pytest.raises(InputError, match=r"lovasz= must be in \[0, 1e\+30\]; received inf"):
        Loss(lovasz=math.inf)
    with pytest.raises(InputError, match=r"class_weighting= must be in \[0, 1\]; received nan"):
        Loss(class_weighting=math.nan)


def test_the_largest_settings_train_or_say_why_not(tmp_path):
    config = _config(epochs=1, seed=2**32 - 1, learning_rate=1e30, weight_decay=1e30, optimizer=Optimizer.ADAMW)
    with pytest.raises(CheckFailed, match="lower learning_rate="):
        Trainer(config, TRAIN, VAL, Run(tmp_path / "a.safetensors")).fit(Observer(), resume=False)


@pytest.mark.parametrize("arch", ["smp-resnet18", "fcn32s-resnet18", "fcn8s-resnet18"])
def test_one_element_has_no_statistics(tmp_path, arch):
    """The refusal is as tight as torch's own: the next larger batch, crop or sampling takes a step."""
    one = {"arch": arch, "epochs": 1, "batch": 1, "augmentation": Augmentation((32, 32))}
    train = Scenes("train", size=(32, 64), count=2)
    with pytest.raises(InputError, match="batch=1 with crop= of 32x32 leaves the last batch norms one element"):
        Trainer(_config(**one), train, VAL, Run(tmp_path / "a.safetensors"))
    larger = [{"batch": 2}, {"augmentation": Augmentation((32, 64))}]
    if arch.startswith("smp"):
        larger.append({"dense_levels": 1})
    for number, changes in enumerate(larger):
        config = _config(**{**one, **changes})
        Trainer(config, train, VAL, Run(tmp_path / f"{number}.safetensors")).fit(Observer(), resume=False)


def test_a_network_that_no_memory_holds(tmp_path, monkeypatch):
    def _too_large(*_arguments, **_options):
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("smp_deploy.training.sources.network_from_arch", _too_large)
    with pytest.raises(MemoryError, match=r"use a smaller batch=.*or width="):
        Trainer(_config(), TRAIN, VAL, Run(tmp_path / "a.safetensors"))
