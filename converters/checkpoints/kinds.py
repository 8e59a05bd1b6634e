"""What a file is, by its content: a checkpoint of a kind that is read, or something else, called by its name."""

from __future__ import annotations

import zipfile
from enum import Enum
from pathlib import Path
from typing import BinaryIO

from engines.errors import CheckpointError

READ = "a checkpoint is a file of safetensors, the index of several, or what torch.save wrote of a state_dict"


class Kind(Enum):
    """Kinds of files that hold weights."""

    SAFETENSORS = "safetensors"
    PICKLE = "a file of torch.save"
    INDEX = "an index of shards"


_HEAD = 1024
_SAVE_STATE_DICT = "save the state_dict of its module, best as .safetensors"
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS, which stands for the file; fetch it: git lfs pull"),
    (b"/annex/objects/", "a pointer of git-annex, which stands for the file; fetch it: git annex get"),
    (b"\x89HDF\r\n\x1a\n", f"an HDF5 file, of Keras perhaps; {READ}"),
    (b"\x93NUMPY", f"an array of NumPy; {READ}"),
    (b"GGUF", f"a GGUF file of a language model; {READ}"),
    (b"\x1f\x8b", "packed by gzip; unpack it first"),
    (b"\xfd7zXZ\0", "packed by xz; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd; unpack it first"),
    (b"BZh", "packed by bzip2; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "packed by 7-Zip; unpack it first"),
)
_PAGES = (b"<!doctype html", b"<html", b"<head", b"<body")


def kind_of(path: Path, stream: BinaryIO) -> Kind:
    """The kind of a checkpoint. Raises :class:`CheckpointError` for any other file, which is called what it is."""
    stream.seek(0)
    head = stream.read(_HEAD)
    stream.seek(0)
    if head.startswith(b"PK"):
        _check_archive_of_weights(path, stream)
        return Kind.PICKLE
    # A length of eight bytes, little-endian, stands before the names of safetensors.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return Kind.SAFETENSORS
    if head[:1] == b"\x80" or head[257:262] == b"ustar":
        return Kind.PICKLE
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"{"):
        return Kind.INDEX
    raise CheckpointError(f"{path} is {_named(head, text.lower())}")


def _named(head: bytes, text: bytes) -> str:
    if not head:
        return "empty, as a download is that was cut off or a disk that was full leaves it"
    for beginning, name in _OTHERS:
        if head.startswith(beginning):
            return name
    if text.startswith(_PAGES) or (text.startswith(b"<?xml") and b"<html" in text):
        return "an HTML page: what was downloaded is a page about the file, or of a login, and not the file"
    if text.startswith(b"<"):
        return "a document of XML: what was downloaded is the answer of a server, and not the file"
    if head[:1] == b"\x08" and (b"pytorch" in head[:64] or b"onnx" in head[:64]):
        return "a graph of ONNX; a network is exported from PyTorch: " + READ
    return f"truncated or no checkpoint; {READ}"


def _check_archive_of_weights(path: Path, stream: BinaryIO) -> None:
    """Raise :class:`CheckpointError` for an archive that holds something else than ``torch.save`` writes."""
    try:
        with zipfile.ZipFile(stream) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path} is truncated or no PyTorch checkpoint: it begins as a zip archive") from error
    finally:
        stream.seek(0)
    # Everything lies in one folder, whose name is anything.
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise CheckpointError(f"{path} is TorchScript, a program with its weights inside; {_SAVE_STATE_DICT}")
    if "data.pkl" in inner:
        return
    if any(name.startswith("models/") for name in inner) or "archive_format" in inner:
        raise CheckpointError(f"{path} is a program of torch.export; {_SAVE_STATE_DICT}")
    if names and all(name.endswith(".npy") for name in names):
        raise CheckpointError(f"{path} holds arrays of NumPy; {READ}")
    held = ", ".join(names[:3]) or "nothing"
    raise CheckpointError(f"{path} is a zip archive that torch.save did not write (it holds {held}); unpack it first")
