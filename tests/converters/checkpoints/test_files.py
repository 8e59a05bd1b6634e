"""Files of checkpoints: told apart by their content, and called what they are where they are none."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import struct
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from converters.checkpoints import checkpoint_from_file, load_checkpoint
from engines.bundle.limits import CHECKPOINT_BYTES, CHECKPOINT_INDEX_BYTES
from engines.errors import CheckpointError
from smp_deploy.benchmarking.peak_memory import peak_of

from .networks import Small, assert_same, loaded, resnet, saved, values


@pytest.mark.parametrize("name", ["c.safetensors", "c.bin", "model_best.pth.tar", "c", "c.pkl"])
@pytest.mark.parametrize("written", ["c.safetensors", "c.pt"])
def test_the_content_says_what_a_file_is(written: str, name: str, tmp_path: Path) -> None:
    state = values(resnet())
    saved(state, tmp_path / written).rename(tmp_path / name)
    assert_same(loaded(tmp_path / name)[0], state)


def test_the_old_format_of_torch(tmp_path: Path) -> None:
    state = values(resnet())
    torch.save(state, tmp_path / "c.pth", _use_new_zipfile_serialization=False)
    assert_same(loaded(tmp_path / "c.pth")[0], state)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.99])
def test_a_truncated_file_is_refused(suffix: str, kept: float, tmp_path: Path) -> None:
    path = saved(values(resnet()), tmp_path / f"c{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(CheckpointError, match=r"truncated|is empty"):
        checkpoint_from_file(path)


def torchscript(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(torch.nn.Conv2d(1, 1, 1)).save(path)


def exported_program(path: Path) -> None:
    program = torch.export.export(torch.nn.Conv2d(1, 1, 1), (torch.zeros(1, 1, 2, 2),))
    torch.export.save(program, path)


def arrays(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez(stream, a=np.zeros(2))


def array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(2))


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/model.safetensors", b"")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 46830571\n"
FOREIGN: dict[str, tuple[bytes | Callable[[Path], object], str]] = {
    "nothing": (b"", "is empty, as a download is that was cut off"),
    "pointer of Git LFS": (POINTER, "is a pointer of Git LFS, which stands for the file; fetch it: git lfs pull"),
    "pointer of git-annex": (b"/annex/objects/SHA256E-s46830571--0.pth\n", "git annex get"),
    "page": (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "is an HTML page: what was downloaded"),
    "page with a mark of byte order": (b"\xef\xbb\xbf<html lang=en>", "is an HTML page"),
    "page as XHTML": (b'<?xml version="1.0"?><!DOCTYPE x><html>', "is an HTML page"),
    "answer of a store": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a document of XML"),
    "JSON": (b'{"error": "not found"}', "is a document of JSON without the weight_map of an index"),
    "no JSON": (b"{error", "is no checkpoint and no index of one: Expecting property name"),
    "TorchScript": (torchscript, "is TorchScript, a program with its weights inside; save the state_dict"),
    "torch.export": (exported_program, "is a program of torch.export; save the state_dict"),
    "zip": (zipped, r"a zip archive that torch.save did not write \(it holds weights/model.safetensors\); unpack it"),
    "npz": (arrays, "holds arrays of NumPy"),
    "npy": (array, "is an array of NumPy"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file, of Keras perhaps"),
    "gzip": (gzip.compress(b"weights"), "is packed by gzip; unpack it first"),
    "ONNX": (b"\x08\x08\x12\x07pytorch\x1a\x052.6.0" + bytes(100), "is a graph of ONNX"),
    "text": (b"my weights", "is truncated or no checkpoint; a checkpoint is a file of safetensors"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_other_files_are_called_what_they_are(name: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"c{suffix}"
    content, message = FOREIGN[name]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        checkpoint_from_file(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2, 3], "holds no weights, no tensors of ordinary numbers: 0 is a value of type int; 1 is"),
        ({"a": 1}, "holds no weights, .*: a is a value of type int"),
        ({}, "holds no weights, no tensors of ordinary numbers: nothing"),
        (3, "holds no weights, no tensors of ordinary numbers: a value of type int"),
        ({1: torch.zeros(1)}, "holds no weights, no tensors of ordinary numbers: nothing"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "a is a tensor of float32 sparse_coo"),
        ({"a": torch.zeros(2, device="meta")}, "a is a tensor of float32 without values"),
        ({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, "a is a tensor of float8_e4m3fn"),
    ],
)
def test_what_holds_no_weights(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        checkpoint_from_file(saved(content, tmp_path / "c.pt"))


def test_mappings_that_hold_themselves_and_each_other(tmp_path: Path) -> None:
    state = values(resnet())
    turning: dict[str, object] = {"state_dict": state}
    turning["self"] = turning
    assert_same(loaded(saved(turning, tmp_path / "c.pt"))[0], state)
    # What is held twice has one name: 2 ** 40 of them otherwise.
    doubled: dict[str, object] = state
    for _ in range(8):
        doubled = {"a": doubled, "b": doubled}
    assert_same(loaded(saved(doubled, tmp_path / "c.pt"))[0], state)
    deep: object = state
    for _ in range(20):
        deep = {"a": deep}
    with pytest.raises(CheckpointError, match="nested more than 12 deep"):
        checkpoint_from_file(saved(deep, tmp_path / "c.pt"))
    with pytest.raises(CheckpointError, match=r"holds two values that are called 'a\.b'"):
        checkpoint_from_file(saved({"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}, tmp_path / "c.pt"))


def safetensors_of(tensors: dict[str, tuple[str, list[int], bytes]], path: Path) -> Path:
    """A file of safetensors, put together by hand: PyTorch has not all types."""
    header, data = {}, b""
    for name, (kind, shape, content) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("kind", ["F8_E8M0", "F8_E4M3", "F8_E5M2"])
def test_types_that_no_network_here_has(kind: str, tmp_path: Path) -> None:
    path = safetensors_of({"scale": (kind, [4], bytes(4))}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"no tensors of ordinary numbers: scale is a tensor of \w*8"):
        checkpoint_from_file(path)
    # Beside others, the one that a network needs is named.
    state = {key: value for key, value in values(Small()).items() if key in ("body.0.weight", "classifier.bias")}
    held = {key: ("F32", list(value.shape), value.numpy().tobytes()) for key, value in state.items()}
    path = safetensors_of({**held, "body.0.bias": (kind, [4], bytes(4))}, tmp_path / "c.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: .*body\.0\.bias \(there, but a tensor of \w*8"):
        load_checkpoint(Small(), checkpoint_from_file(path))


def sharded(state: dict[str, torch.Tensor], folder: Path, suffix: str = ".safetensors") -> Path:
    """Three shards and their index, as the libraries of Hugging Face write them."""
    keys, places = list(state), {}
    for number in range(3):
        name = f"model-{number + 1:05d}-of-00003{suffix}"
        saved({key: state[key] for key in keys[number::3]}, folder / name)
        places.update(dict.fromkeys(keys[number::3], name))
    index = folder / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_with_an_index(suffix: str, tmp_path: Path) -> None:
    state = values(resnet())
    index = sharded(state, tmp_path, suffix)
    assert_same(loaded(index)[0], state)
    # The digest is one that people can make themselves.
    files = sorted(path.name for path in tmp_path.iterdir())
    sums = subprocess.run(["sha256sum", *files], cwd=tmp_path, capture_output=True, check=True).stdout
    assert checkpoint_from_file(index).sha256 == hashlib.sha256(sums).hexdigest()


def test_shards_that_do_not_hold_together(tmp_path: Path) -> None:
    state = values(resnet())
    index = sharded(state, tmp_path)
    document = json.loads(index.read_text())

    def refused(message: str, **changed: object) -> None:
        index.write_text(json.dumps({**document, **changed}))
        with pytest.raises(CheckpointError, match=message):
            checkpoint_from_file(index)

    refused("without the weight_map", weight_map={})
    refused("without the weight_map", weight_map=[1])
    for name in ("../c.safetensors", "/etc/passwd", "..", "a/b"):
        refused("shards lie beside their index", weight_map={"a": name})
    refused(
        r"model-00001-of-00003.safetensors has no other, which model.safetensors.index.json says is there",
        weight_map={**document["weight_map"], "other": "model-00001-of-00003.safetensors"},
    )
    refused("which is no file of weights", weight_map={"a": index.name})
    refused("cannot read the checkpoint .*absent.*No such file", weight_map={"a": "absent"})
    # One of the shards alone is no checkpoint.
    with pytest.raises(CheckpointError, match="by its name it is one of several shards: name their index in its place"):
        loaded(tmp_path / "model-00001-of-00003.safetensors")
    index.write_bytes(b"{" + b" " * CHECKPOINT_INDEX_BYTES)
    with pytest.raises(CheckpointError, match="is a text of more than 16 MiB"):
        checkpoint_from_file(index)


def test_absent_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*absent.pt: No such file"):
        checkpoint_from_file(tmp_path / "absent.pt")
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


def test_what_a_file_says_of_itself(tmp_path: Path) -> None:
    save_file(values(resnet()), tmp_path / "c.safetensors", {"who": "me"})
    checkpoint = checkpoint_from_file(tmp_path / "c.safetensors")
    assert checkpoint.metadata == {"who": "me"}
    assert checkpoint.sha256 == hashlib.sha256((tmp_path / "c.safetensors").read_bytes()).hexdigest()


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
    peak = peak_of("tests.converters.checkpoints.test_files:mapped_bytes", str(tmp_path / "c.safetensors"))
    assert peak.returned < 0.1
