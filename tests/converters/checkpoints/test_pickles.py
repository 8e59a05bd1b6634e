"""Pickles are opened without running code: what is harmless beside the weights is let by, and nothing else is."""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import pathlib
import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters.checkpoints import checkpoint_from_file
from converters.checkpoints.pickles import Beside, unpickled
from engines.errors import CheckpointError

from .networks import assert_same, loaded, resnet, saved, values


class Evil:
    """What a malicious checkpoint holds: code that runs when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return os.system, (f"touch {self.witness}",)


class Options:
    """A class of a user's own: what it does when it is made anew, nobody knows."""


@pytest.mark.parametrize("save", [torch.save, lambda what, path: Path(path).write_bytes(pickle.dumps(what))])
def test_a_pickle_that_wants_to_run_code_is_refused(save, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    save({"state_dict": Evil(witness)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        checkpoint_from_file(tmp_path / "c.pt")
    assert not witness.exists()


@pytest.mark.parametrize(
    "beside",
    [
        argparse.Namespace(lr=0.1, resume=Path("a/b"), inner=argparse.Namespace(names=["a"])),
        types.SimpleNamespace(lr=0.1),
        np.float64(0.75),
        np.float32(0.75),
        np.int64(3),
        np.bool_(True),
        np.arange(6.0).reshape(2, 3),
        np.random.default_rng(0).bit_generator.state,
        np.random.RandomState(0).get_state(),
        pathlib.PurePosixPath("a/b"),
        pathlib.PureWindowsPath("a/b"),
        datetime.datetime(2024, 1, 2, 3, tzinfo=datetime.timezone.utc),
        datetime.timedelta(seconds=3),
        collections.defaultdict(list, a=[1]),
        collections.defaultdict(dict),
        collections.deque([1, 2], maxlen=4),
        collections.Counter("aab"),
        {1, 2},
        1 + 2j,
        range(3),
        torch.Size([1, 2]),
        torch.device("cpu"),
        torch.float16,
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_harmless_beside_the_weights(beside: Any, tmp_path: Path) -> None:
    state = values(resnet())
    have, said = loaded(saved({"state_dict": state, "kept": beside, "more": [beside]}, tmp_path / "c.ckpt"))
    assert_same(have, state)
    assert said == [f"{tmp_path / 'c.ckpt'}: the weights are those under 'state_dict'"]


def test_what_is_harmless_is_not_made_either(tmp_path: Path) -> None:
    """An inert object stands for it: no constructor of another package runs, whatever its version does."""
    path = saved({"a": argparse.Namespace(lr=0.1), "b": np.float64(1), "c": Path("x")}, tmp_path / "c.pt")
    with path.open("rb") as stream:
        assert {type(value) for value in unpickled(path, stream).values()} == {Beside}
    # The list of the process is as it was.
    assert not [held for held in torch.serialization.get_safe_globals() if isinstance(held, tuple) and Beside in held]


def test_a_name_that_is_harmless_makes_no_other_one_so(tmp_path: Path) -> None:
    """The list has whole names: a function of a module whose types are harmless is refused."""
    path = tmp_path / "c.pt"
    for name in ("numpy.load", "pathlib.os.system", "argparse._sys.exit", "builtins.eval", "builtins.getattr"):
        module, _, function = name.rpartition(".")
        content = f"\x80\x02c{module}\n{function}\nX\x01\x00\x00\x00a\x85R.".encode("latin-1")
        torch.save({}, path)
        with zipfile.ZipFile(path) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for member, held in members.items():
                archive.writestr(member, content if member.endswith("data.pkl") else held)
        with pytest.raises(CheckpointError, match="could run code"):
            checkpoint_from_file(path)


def test_what_is_refused_is_named(tmp_path: Path) -> None:
    saved({"state_dict": {}, "config": Options()}, tmp_path / "c.pt")
    name = f"{Options.__module__}.Options"
    with pytest.raises(CheckpointError) as caught:
        checkpoint_from_file(tmp_path / "c.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'c.pt'} holds more than weights ({name}), or is no checkpoint, and was not opened, since that "
        "could run code; save its state_dict alone, best as .safetensors"
    )


def test_a_whole_network_is_refused_by_its_name(tmp_path: Path) -> None:
    saved(resnet(), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"holds more than weights \(converters\.networks\.segmentation\.SMP\)"):
        checkpoint_from_file(tmp_path / "c.pt")


def test_names_that_later_pythons_write(tmp_path: Path) -> None:
    class Later:
        def __reduce__(self):
            return pathlib.PurePosixPath, ("a",)

    state = values(resnet())
    path = saved({"state_dict": state, "out": Later()}, tmp_path / "c.pt")
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, held in members.items():
            later = held.replace(b"cpathlib\nPurePosixPath\n", b"cpathlib._local\nPurePosixPath\n")
            archive.writestr(member, later)
    assert_same(loaded(path)[0], state)


def test_a_checkpoint_that_is_packed_is_refused(tmp_path: Path) -> None:
    """``torch.save`` packs nothing, so what unpacks to more than the file was made to."""
    saved(values(resnet()), tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "c.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr("archive/data/bomb", bytes(100 << 20))
    assert (tmp_path / "packed.pt").stat().st_size < 1 << 20
    with pytest.raises(CheckpointError, match=r"packed\.pt unpacks to \d+ bytes, more than the file has"):
        checkpoint_from_file(tmp_path / "packed.pt")
