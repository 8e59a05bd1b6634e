"""Weights into a network: values of every type that is kept, and every mismatch in one message."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from converters.checkpoints import (
    checkpoint_from_file,
    initialise_network,
    load_checkpoint,
    network_from_checkpoint,
)
from engines.errors import CheckpointError, NetworkError

from .networks import Small, State, assert_same, loaded, resnet, saved, under, values


@pytest.fixture
def state() -> State:
    return values(resnet())


def test_half_precision_storage_is_read(state, tmp_path: Path) -> None:
    halved = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    save_file(halved, tmp_path / "c.safetensors")
    want = {key: value.float() if value.is_floating_point() else value for key, value in halved.items()}
    assert_same(loaded(tmp_path / "c.safetensors")[0], want)


def test_an_imagenet_checkpoint_when_asked_for(state, tmp_path: Path) -> None:
    backbone = {key: value for key, value in state.items() if not key.startswith("head")}
    imagenet = {**backbone, "fc.weight": torch.zeros(1000, 16), "fc.bias": torch.zeros(1000)}
    save_file(imagenet, tmp_path / "c.safetensors")
    checkpoint = checkpoint_from_file(tmp_path / "c.safetensors")
    with pytest.raises(
        CheckpointError, match=r"2 missing: head.weight.*, head.bias.*; 2 unexpected: fc.*; backbone_only=True accepts"
    ):
        load_checkpoint(resnet(), checkpoint)
    target = resnet()
    head = target.head.weight.clone()
    load_checkpoint(target, checkpoint, backbone_only=True)
    assert torch.equal(target.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert torch.equal(target.head.weight, head)


def test_old_checkpoints_without_counters_load(state, tmp_path: Path) -> None:
    save_file({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "c.safetensors")
    load_checkpoint(resnet(), checkpoint_from_file(tmp_path / "c.safetensors"))


def test_all_mismatches_are_in_one_message(state, tmp_path: Path) -> None:
    del state["conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["bn1.bias"] = torch.zeros(7)
    state["head.bias"][2] = float("nan")
    save_file(state, tmp_path / "c.safetensors")
    target = resnet()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(target, checkpoint_from_file(tmp_path / "c.safetensors"))
    message = str(caught.value)
    for part in (
        "1 missing: conv1.weight",
        "1 unexpected: layer9.weight",
        "1 of another shape: bn1.bias (7,) instead of (2,)",
        "1 with values that are not finite: head.bias",
    ):
        assert part in message
    # A refused checkpoint changes nothing.
    assert all(torch.equal(before[key], value) for key, value in target.state_dict().items())


def test_long_lists_are_shortened(state, tmp_path: Path) -> None:
    save_file({"other": torch.zeros(1)}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: .* and \d+ more; 1 unexpected: other$"):
        load_checkpoint(resnet(), checkpoint_from_file(tmp_path / "c.safetensors"))


def test_a_value_that_is_repeated_takes_no_memory(state, tmp_path: Path) -> None:
    """A tensor of 2 ** 50 numbers, of which the file holds one."""
    state["head.bias"] = torch.zeros(1).expand(1 << 50)
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"head\.bias \(1125899906842624,\) instead of \(5,\)"):
        load_checkpoint(resnet(), checkpoint_from_file(tmp_path / "c.pt"))


def test_a_network_is_made_only_when_the_checkpoint_fills_it(state, tmp_path: Path) -> None:
    checkpoint = checkpoint_from_file(saved(state, tmp_path / "c.safetensors"))
    for chosen in ({}, {"classes": 5}, {"width": 2}, {"classes": 5, "width": 2}):
        assert_same(network_from_checkpoint(checkpoint, "smp-resnet18", **chosen).state_dict(), state)
    # It would have 45 billion parameters.
    with pytest.raises(CheckpointError, match=r"conv1\.weight \(2, 3, 7, 7\) instead of \(4096, 3, 7, 7\)"):
        network_from_checkpoint(checkpoint, "smp-resnet18", classes=5, width=4096)


def test_a_scalar_where_channels_are_read_off(tmp_path: Path) -> None:
    path = saved({"head.weight": torch.tensor(1.0)}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.weight \(\) instead of \(19, 512, 1, 1\)"):
        network_from_checkpoint(checkpoint_from_file(path), "smp-resnet18")


def test_buffers_of_bool_and_int_are_taken(tmp_path: Path) -> None:
    state = values(Small())
    state["used"], state["order"] = torch.tensor([False, True]), torch.tensor([2, 0, 1], dtype=torch.int32)
    for name in ("c.safetensors", "c.pt"):
        assert_same(loaded(saved(state, tmp_path / name), Small)[0], state)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        # The value is kept by the network's type, whatever the file's.
        ("order", torch.tensor([5, 6, 7]), None),
        ("order", torch.tensor([5.0, 6.0, 7.0]), None),
        ("order", torch.tensor([5, 6, 1 << 31]), "order (int64 into int32)"),
        ("order", torch.tensor([5.0, 6.5, 7.0]), "order (float32 into int32)"),
        ("used", torch.tensor([0, 1]), None),
        ("used", torch.tensor([0, 2]), "used (int64 into bool)"),
        ("classifier.bias", torch.tensor([1, -2], dtype=torch.int8), None),
        ("classifier.bias", torch.tensor([1.0, -2.0], dtype=torch.float64), None),
        ("classifier.bias", torch.tensor([1.0, 1e39], dtype=torch.float64), "classifier.bias (float64 into float32)"),
        ("classifier.bias", torch.tensor([1.0, 2j]), "classifier.bias (complex64 into float32)"),
    ],
)
def test_values_that_the_type_of_the_network_holds(key: str, value: torch.Tensor, said: str | None, tmp_path) -> None:
    state = values(Small())
    path = saved({**state, key: value}, tmp_path / "c.pt")
    if said is None:
        want = {**state, key: value.to(state[key].dtype)}
        assert_same(loaded(path, Small)[0], want)
    else:
        with pytest.raises(CheckpointError) as caught:
            loaded(path, Small)
        assert str(caught.value) == (
            f"{path} does not fit the network: 1 with values beyond the network's type: {said}"
        )


def test_values_beyond_the_half_precision_of_a_network(tmp_path: Path) -> None:
    path = saved({**values(Small()), "classifier.bias": torch.tensor([1.0, 7e4])}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"beyond the network's type: classifier\.bias \(float32 into float16\)$"):
        loaded(path, lambda: Small().half())


def test_a_buffer_may_be_infinite_where_the_networks_own_is(tmp_path: Path) -> None:
    state = values(Small())
    assert state["mask"].tolist() == [0, -torch.inf]
    state["mask"] = torch.tensor([-torch.inf, 0])
    with pytest.raises(CheckpointError, match=r"1 with values that are not finite: mask$"):
        loaded(saved(state, tmp_path / "c.pt"), Small)


def test_a_lazy_layer_that_was_never_run(tmp_path: Path) -> None:
    def lazy() -> nn.Module:
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.Conv2d(4, 2, 1))

    path = saved(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)).state_dict(), tmp_path / "c.pt")
    said = (
        r"^the layer '0' is lazy and has no shape yet \(0\.weight\); name its channels, or run the network once in its"
    )
    with pytest.raises(NetworkError, match=said):
        loaded(path, lazy)
    with pytest.raises(NetworkError, match=said):
        initialise_network(lazy(), checkpoint_from_file(path))
    # A checkpoint of such a network has nothing to give.
    path = saved(lazy().state_dict(), tmp_path / "d.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        checkpoint_from_file(path)


def test_a_network_that_keeps_what_is_no_tensor(tmp_path: Path) -> None:
    class Keeping(nn.Conv2d):
        def get_extra_state(self) -> object:
            return {"a": 1}

    path = saved(nn.Conv2d(1, 1, 1).state_dict(), tmp_path / "c.pt")
    with pytest.raises(NetworkError, match=r"the network keeps '_extra_state' in its state, which is no tensor"):
        loaded(path, lambda: Keeping(1, 1, 1))


def test_starting_from_another_networks_weights(tmp_path: Path) -> None:
    state = values(resnet(classes=7))
    backbone = {key: value for key, value in state.items() if not key.startswith("head")}
    wrapped = {"state_dict": under("model.", {**backbone, "fc.weight": torch.zeros(1000, 16)})}
    target, said = resnet(), []
    before = {key: value.clone() for key, value in target.state_dict().items()}
    checkpoint = checkpoint_from_file(saved(wrapped, tmp_path / "c.ckpt"))
    assert initialise_network(target, checkpoint, on_note=said.append) == ["head.weight", "head.bias"]
    assert_same(target.state_dict(), {**before, **backbone})
    assert said == [f"{tmp_path / 'c.ckpt'}: the weights are those under 'state_dict.model'"]
    # Of another number of classes it is the same; of its own, the head is taken, too.
    assert initialise_network(resnet(), checkpoint_from_file(saved(state, tmp_path / "d.pt"))) == [
        "head.weight",
        "head.bias",
    ]
    assert initialise_network(target, checkpoint_from_file(saved(values(resnet()), tmp_path / "e.pt"))) == []
    assert_same(target.state_dict(), values(resnet()))
    # What no network can start from is refused as ever, values that are no numbers among it.
    backbone["bn1.bias"] = torch.tensor([0.0, torch.nan])
    del backbone["conv1.weight"]
    with pytest.raises(
        CheckpointError, match=r"1 missing: conv1\.weight; 1 with values that are not finite: bn1\.bias$"
    ):
        initialise_network(resnet(), checkpoint_from_file(saved(backbone, tmp_path / "f.pt")))
