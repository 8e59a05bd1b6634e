"""Checkpoints in every form that is read, and every way in which they are refused."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from converters.checkpoints import checkpoint_from_file, load_checkpoint, network_from_checkpoint
from converters.networks import network_from_arch
from engines.bundle.limits import CHECKPOINT_BYTES
from engines.errors import CheckpointError
from smp_deploy.benchmarking.peak_memory import peak_of


def network() -> nn.Module:
    return network_from_arch("smp-resnet18", classes=5, width=2)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return network().state_dict()


def assert_loads(path: Path, state: dict[str, torch.Tensor]) -> None:
    target = network()
    load_checkpoint(target, checkpoint_from_file(path))
    assert all(torch.equal(value, state[key]) for key, value in target.state_dict().items())


def test_safetensors(state, tmp_path: Path) -> None:
    save_file(state, tmp_path / "c.safetensors")
    assert_loads(tmp_path / "c.safetensors", state)
    checkpoint = checkpoint_from_file(tmp_path / "c.safetensors")
    assert (checkpoint.classes, checkpoint.width) == (5, 2)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["plain", "state_dict", "model", "nested", "data parallel", "compiled outside", "compiled inside", "both"],
)
def test_pickles_and_their_wrappers(state, wrap, suffix: str, tmp_path: Path) -> None:
    torch.save(wrap(state), tmp_path / f"c{suffix}")
    assert_loads(tmp_path / f"c{suffix}", state)


def test_half_precision_storage_is_read(state, tmp_path: Path) -> None:
    halved = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    save_file(halved, tmp_path / "c.safetensors")
    assert_loads(tmp_path / "c.safetensors", {k: v.float() if v.is_floating_point() else v for k, v in halved.items()})


def test_an_imagenet_checkpoint_when_asked_for(state, tmp_path: Path) -> None:
    backbone = {key: value for key, value in state.items() if not key.startswith("head")}
    imagenet = {**backbone, "fc.weight": torch.zeros(1000, 16), "fc.bias": torch.zeros(1000)}
    save_file(imagenet, tmp_path / "c.safetensors")
    checkpoint = checkpoint_from_file(tmp_path / "c.safetensors")
    with pytest.raises(
        CheckpointError, match=r"2 missing: head.weight, head.bias; 2 unexpected: fc.*; backbone_only=True accepts"
    ):
        load_checkpoint(network(), checkpoint)
    target = network()
    head = target.head.weight.clone()
    load_checkpoint(target, checkpoint, backbone_only=True)
    assert torch.equal(target.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert torch.equal(target.head.weight, head)


def test_old_checkpoints_without_counters_load(state, tmp_path: Path) -> None:
    save_file({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "c.safetensors")
    load_checkpoint(network(), checkpoint_from_file(tmp_path / "c.safetensors"))


def test_all_mismatches_are_in_one_message(state, tmp_path: Path) -> None:
    del state["conv1.weight"]
    state["layer9.weight"] = torch.zeros(1)
    state["bn1.bias"] = torch.zeros(7)
    state["head.bias"][2] = float("nan")
    save_file(state, tmp_path / "c.safetensors")
    target = network()
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
        load_checkpoint(network(), checkpoint_from_file(tmp_path / "c.safetensors"))


class Evil:
    """What a malicious checkpoint holds: code that runs when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("save", [torch.save, lambda what, path: Path(path).write_bytes(pickle.dumps(what))])
def test_a_pickle_that_wants_to_run_code_is_refused(save, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    save({"state_dict": Evil(witness)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        checkpoint_from_file(tmp_path / "c.pt")
    assert not witness.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.99])
def test_a_truncated_file_is_refused(state, suffix: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"c{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match=r"truncated|holds more than weights"):
        checkpoint_from_file(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2, 3], "holds no state dict; received list"),
        ({"a": 1, "b": torch.zeros(1)}, "a are no tensors of"),
        ({}, "dict"),
    ],
)
def test_what_is_no_state_dict_is_refused(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=message):
        checkpoint_from_file(tmp_path / "c.pt")


@pytest.mark.parametrize(
    "content",
    [
        {1: torch.zeros(1)},
        {"a": torch.zeros(1, dtype=torch.complex64)},
        {"a": torch.zeros(2, dtype=torch.int8)},
        {"a": torch.zeros(2, 2).to_sparse()},
        {"a": torch.zeros(2, device="meta")},
    ],
    ids=["number as key", "complex", "int8", "sparse", "meta"],
)
def test_tensors_that_are_no_ordinary_numbers_are_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"no tensors of ordinary numbers|truncated or no"):
        checkpoint_from_file(tmp_path / "c.pt")


def test_a_scalar_where_channels_are_read_off(tmp_path: Path) -> None:
    save_file({"head.weight": torch.tensor(1.0)}, tmp_path / "c.safetensors")
    assert checkpoint_from_file(tmp_path / "c.safetensors").classes is None


def test_absent_and_unknown_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*absent.pt: No such file"):
        checkpoint_from_file(tmp_path / "absent.pt")
    (tmp_path / "weights.h5").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint by its name; known are .safetensors, .pt"):
        checkpoint_from_file(tmp_path / "weights.h5")
    with pytest.raises(CheckpointError, match="is a folder, where a file is needed"):
        checkpoint_from_file(tmp_path)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    (tmp_path / "loop.pt").symlink_to("loop.pt")
    with (tmp_path / "huge.pt").open("wb") as huge:
        huge.truncate(CHECKPOINT_BYTES + 1)
    for name, said in {
        "pipe.pt": "is a (pipe|device), where a file is needed",
        "zero.safetensors": "is a (pipe|device), where a file is needed",
        "loop.pt": "Too many levels of symbolic links",
        "huge.pt": "is larger than 16 GiB, the most that is read",
    }.items():
        with pytest.raises(CheckpointError, match=f"cannot read the checkpoint.*{name}.*{said}"):
            checkpoint_from_file(tmp_path / name)


def test_a_checkpoint_that_is_packed_is_refused(state, tmp_path: Path) -> None:
    """``torch.save`` packs nothing, so what unpacks to more than the file was made to."""
    torch.save(state, tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "c.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("archive/data/bomb", bytes(100 << 20))
    assert (tmp_path / "packed.pt").stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match=r"packed\.pt unpacks to \d+ bytes, more than the file has"):
        checkpoint_from_file(tmp_path / "packed.pt")


def test_a_value_that_is_repeated_takes_no_memory(state, tmp_path: Path) -> None:
    """A tensor of 2 ** 50 numbers, of which the file holds one."""
    state["head.bias"] = torch.zeros(1).expand(1 << 50)
    torch.save(state, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"head\.bias \(1125899906842624,\) instead of \(5,\)"):
        load_checkpoint(network(), checkpoint_from_file(tmp_path / "c.pt"))


def test_a_network_is_made_only_when_the_checkpoint_fills_it(state, tmp_path: Path) -> None:
    save_file(state, tmp_path / "c.safetensors", {"who": "me"})
    checkpoint = checkpoint_from_file(tmp_path / "c.safetensors")
    assert checkpoint.metadata == {"who": "me"}
    assert checkpoint.sha256 == hashlib.sha256((tmp_path / "c.safetensors").read_bytes()).hexdigest()
    made = network_from_checkpoint(checkpoint, "smp-resnet18", classes=5, width=2)
    assert all(torch.equal(value, state[key]) for key, value in made.state_dict().items())
    # It would have 45 billion parameters.
    with pytest.raises(CheckpointError, match=r"conv1\.weight \(2, 3, 7, 7\) instead of \(4096, 3, 7, 7\)"):
        network_from_checkpoint(checkpoint, "smp-resnet18", classes=5, width=4096)


def mapped_bytes(path: str) -> float:
    """How often a safetensors file is held when it is read: of memory that is not the file's own pages."""

    def anonymous() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

    checkpoint_from_file(Path(path).with_name("small.safetensors"))
    before = anonymous()
    checkpoint = checkpoint_from_file(Path(path))
    held = anonymous() - before
    return held / sum(tensor.nbytes for tensor in checkpoint.tensors.values())


def test_a_large_checkpoint_is_mapped(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "small.safetensors")
    save_file({"a": torch.ones(64 << 20)}, tmp_path / "c.safetensors")
    peak = peak_of("tests.converters.test_checkpoints:mapped_bytes", str(tmp_path / "c.safetensors"))
    assert peak.returned < 0.1
