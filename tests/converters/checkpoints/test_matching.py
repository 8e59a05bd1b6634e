"""Which of a file's tensors are a network's: prefixes are found by matching, said, and never guessed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from converters.checkpoints import checkpoint_from_file, load_checkpoint, network_from_checkpoint
from engines.errors import CheckpointError

from .networks import Small, State, assert_same, loaded, resnet, saved, under, values


class Wrapped(nn.Module):
    """A network whose own child is called ``module``."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Small()


class Lightning(nn.Module):
    """What people train with PyTorch Lightning: the network, and beside it a loss with weights and a metric."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.net = network
        self.criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.3, 0.7]))
        self.metric = nn.BatchNorm1d(2)


def averaged(state: State) -> State:
    network = Small()
    network.load_state_dict(state)
    return dict(torch.optim.swa_utils.AveragedModel(network).state_dict())


def of_lightning(state: State) -> dict[str, Any]:
    network = Small()
    network.load_state_dict(state)
    return {
        "epoch": 3,
        "state_dict": Lightning(network).state_dict(),
        "hyper_parameters": argparse.Namespace(lr=0.1),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}],
    }


FORMS: dict[str, tuple[Callable[[State], Any], str]] = {
    "model. of Lightning": (lambda state: {"state_dict": under("model.", state), "epoch": 1}, "state_dict.model"),
    "net. of Lightning": (of_lightning, "state_dict.net"),
    "AveragedModel": (averaged, "module"),
    "data parallel": (lambda state: under("module.", state), "module"),
    "averaged in data parallel": (lambda state: under("module.module.", state), "module.module"),
    "model": (lambda state: {"model": state, "optimizer": {"lr": 0.1}}, "model"),
    "model in state_dict": (lambda state: {"model": {"state_dict": state}}, "model.state_dict"),
    "ema_state_dict instead": (lambda state: {"ema_state_dict": state}, "ema_state_dict"),
    "model_ema instead": (lambda state: {"model_ema": under("module.", state), "epoch": 3}, "model_ema.module"),
    "a name that nobody foresaw": (lambda state: {"student_v2": {"params": state}}, "student_v2.params"),
    "a tuple": (lambda state: (3, state), "1"),
    "the same twice": (lambda state: {"state_dict": state, "best": dict(state)}, "state_dict"),
    "averaged, as it was": (
        lambda state: {"model": state, "ema": {key: value.clone() for key, value in state.items()}},
        "model",
    ),
    "compiled": (lambda state: under("_orig_mod.", state), "_orig_mod"),
    "compiled in data parallel": (lambda state: under("module._orig_mod.", state), "module._orig_mod"),
    "data parallel, compiled": (lambda state: under("_orig_mod.module.", state), "_orig_mod.module"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_prefix_is_found_and_said(form: str, tmp_path: Path) -> None:
    state = values(Small())
    make, prefix = FORMS[form]
    have, said = loaded(saved(make(state), tmp_path / "c.ckpt"), Small)
    assert_same(have, state)
    assert len(said) == 1
    assert said[0].startswith(f"{tmp_path / 'c.ckpt'}: the weights are those under {prefix!r}")


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    state = values(Small())
    _, said = loaded(saved(averaged(state), tmp_path / "c.pt"), Small)
    assert said == [f"{tmp_path / 'c.pt'}: the weights are those under 'module'; not used: n_averaged"]
    _, said = loaded(saved(of_lightning(state), tmp_path / "c.pt"), Small)
    assert said == [
        f"{tmp_path / 'c.pt'}: the weights are those under 'state_dict.net'; not used: state_dict.criterion.weight, "
        "state_dict.metric.bias, state_dict.metric.num_batches_tracked, state_dict.metric.running_mean and 2 more"
    ]


@pytest.mark.parametrize("form", ["plain.safetensors", "plain.pt"])
def test_nothing_is_said_of_a_plain_file(form: str, tmp_path: Path) -> None:
    state = values(Small())
    have, said = loaded(saved(state, tmp_path / form), Small)
    assert_same(have, state)
    assert said == []


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [
        (lambda state: state, ""),
        (lambda state: under("module.", state), "module"),
        (lambda state: {"state_dict": under("model.", state)}, "state_dict.model"),
    ],
    ids=["as it is", "data parallel", "Lightning"],
)
def test_a_network_whose_own_child_is_called_module(wrap, prefix: str, tmp_path: Path) -> None:
    state = values(Wrapped())
    have, said = loaded(saved(wrap(state), tmp_path / "c.pt"), Wrapped)
    assert_same(have, state)
    assert [f"{tmp_path / 'c.pt'}: the weights are those under {prefix!r}"] * bool(prefix) == said


def test_a_prefix_that_the_network_has_and_the_file_has_not(tmp_path: Path) -> None:
    state = values(Small())
    have, said = loaded(saved(state, tmp_path / "c.safetensors"), Wrapped)
    assert_same(have, under("module.", state))
    assert said == [
        f"{tmp_path / 'c.safetensors'}: the weights are the whole file's; they go under the network's 'module'"
    ]


@pytest.mark.parametrize("inside", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"])
def test_wrappers_of_single_layers(inside: str, tmp_path: Path) -> None:
    state = values(Small())
    wrapped = {key.replace("body.", f"body.{inside}."): value for key, value in state.items()}
    assert_same(loaded(saved(wrapped, tmp_path / "c.safetensors"), Small)[0], state)
    # And of the network, where the file has none: its factory compiled a part of it.
    network = Small()
    network.body = nn.ModuleDict({inside: network.body}) if inside != "module" else network.body
    load_checkpoint(network, checkpoint_from_file(saved(state, tmp_path / "d.safetensors")))
    assert all(
        torch.equal(value, state[key.replace(f"body.{inside}.", "body.")])
        for key, value in network.state_dict().items()
    )


def test_parts_that_were_saved_beside_each_other(tmp_path: Path) -> None:
    state = values(Small())
    parts = {
        part: {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
        for part in ("body", "classifier")
    }
    rest = {key: value for key, value in state.items() if "." not in key}
    assert_same(loaded(saved({**parts, **rest}, tmp_path / "c.pt"), Small)[0], state)


@pytest.mark.parametrize(
    ("ema", "key"), [("ema_state_dict", "ema_state_dict"), ("model_ema", "model_ema"), ("average", "average")]
)
def test_averaged_weights_beside_the_others(ema: str, key: str, tmp_path: Path) -> None:
    """Both fit and they differ, so a person says which counts: either alone would be a guess."""
    raw, mean = values(Small(), 1), values(Small(), 2)
    path = saved({"state_dict": raw, ema: mean}, tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError) as caught:
        loaded(path, Small)
    assert str(caught.value) == (
        f"{path} holds 2 sets of weights that fit the network and differ: state_dict, {ema}; say which counts: "
        f"weights={key!r}"
    )
    assert_same(loaded(path, Small, weights=key)[0], mean)
    assert_same(loaded(path, Small, weights="state_dict")[0], raw)


def test_two_networks_in_one_state_dict(tmp_path: Path) -> None:
    """A teacher and a student under Lightning; of another shape, it is no choice."""
    student, teacher = values(Small(), 1), values(Small(), 2)
    both = {"state_dict": {**under("student.", student), **under("teacher.module.", teacher)}}
    path = saved(both, tmp_path / "c.ckpt")
    with pytest.raises(CheckpointError, match=r"differ: state_dict\.student, state_dict\.teacher\.module; say which"):
        loaded(path, Small)
    assert_same(loaded(path, Small, weights="state_dict.student")[0], student)
    # Within the part that was named, the prefix is found as ever.
    assert_same(loaded(path, Small, weights="state_dict.teacher")[0], teacher)
    with pytest.raises(CheckpointError, match=r"missing: used, order, mask"):
        loaded(path, Small, weights="state_dict.teacher", strip_prefix="module.body")
    both["state_dict"]["teacher.module.classifier.bias"] = torch.zeros(9)
    assert_same(loaded(saved(both, path), Small)[0], student)


@pytest.mark.parametrize("prefix", ["net_", "net"])
def test_a_prefix_that_a_person_names(prefix: str, tmp_path: Path) -> None:
    """Also one that ends in the middle of a name, which no matching finds."""
    state = values(Small())
    written = under("net_" if prefix == "net_" else "net.", state)
    path = saved({**written, "beside": torch.ones(1)}, tmp_path / "c.safetensors")
    if prefix == "net_":
        with pytest.raises(CheckpointError, match=r"missing: used \(there, but|missing: used \(nearest: net_used\)"):
            loaded(path, Small)
    assert_same(loaded(path, Small, strip_prefix=prefix)[0], state)


def test_a_named_prefix_is_taken_at_its_word(tmp_path: Path) -> None:
    path = saved(under("model.net.", values(Small())), tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: used \(nearest: net\.used\)"):
        loaded(path, Small, strip_prefix="model.")
    loaded(path, Small, strip_prefix="model.net.")


@pytest.mark.parametrize("option", ["weights", "strip_prefix"])
def test_a_part_that_is_not_there(option: str, tmp_path: Path) -> None:
    path = saved({"state_dict": values(Small()), "ema": values(Small())}, tmp_path / "c.pt")
    said = {"weights": "no weights='best'", "strip_prefix": "no names with 'best'"}[option]
    with pytest.raises(CheckpointError, match=rf"has {said}; its names begin with state_dict, ema$"):
        checkpoint_from_file(path, **{option: "best"})


def test_the_nearest_match_is_shown(tmp_path: Path) -> None:
    state = values(Small())
    state["body.0.kernel"] = state.pop("body.0.weight")
    state["head.bias"] = state.pop("classifier.bias")
    path = saved(state, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError) as caught:
        loaded(path, Small)
    assert str(caught.value) == (
        f"{path} does not fit the network: 2 missing: body.0.weight (nearest: body.0.kernel), classifier.bias "
        "(nearest: head.bias); 2 unexpected: body.0.kernel, head.bias"
    )


def test_what_does_not_fit_is_held_against_the_part_that_comes_nearest(tmp_path: Path) -> None:
    state = values(Small())
    del state["mask"]
    path = saved({"state_dict": under("model.", state), "ema": {"body.0.bias": torch.ones(4)}}, tmp_path / "c.ckpt")
    with pytest.raises(
        CheckpointError, match=r"c\.ckpt \(under 'state_dict\.model'\) does not fit .* 1 missing: mask$"
    ):
        loaded(path, Small)


def test_a_known_network_reads_its_channels_off_the_part_that_fits(tmp_path: Path) -> None:
    state = values(resnet(classes=7))
    path, said = saved({"state_dict": under("model.", state)}, tmp_path / "c.ckpt"), []
    made = network_from_checkpoint(checkpoint_from_file(path), "smp-resnet18", on_note=said.append)
    assert_same(made.state_dict(), state)
    assert (made.classes, made.conv1.out_channels) == (7, 2)
    assert said == [f"{path}: the weights are those under 'state_dict.model'"]
