"""Files of checkpoints: safetensors, alone or in shards under an index, and what ``torch.save`` wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from converters.checkpoints.contents import Contents, contents_of
from converters.checkpoints.kinds import READ, Kind, kind_of
from converters.checkpoints.pickles import unpickled
from engines.bundle.documents import json_of
from engines.bundle.gate import opened_file
from engines.bundle.limits import CHECKPOINT_BYTES, CHECKPOINT_INDEX_BYTES
from engines.errors import CheckpointError, InputError, MissingDependency

_BLOCK = 1 << 20
_SHOWN = 8


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file by their names in it, and where they come from."""

    path: Path
    tensors: Mapping[str, Tensor]
    """Dotted names: ``state_dict.model.conv1.weight``; without what ``weights=`` and ``strip_prefix=`` take off."""
    sha256: str
    """Of the file. Of shards, that of the text which ``sha256sum INDEX SHARD...`` prints of them in order of names."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What a safetensors file says of itself: somebody else's words."""
    others: Mapping[str, str] = field(default_factory=dict)
    """What there is beside ordinary tensors: by its name, in words."""
    exact: bool = False
    """Whether the names are a network's as they are, since the user said which prefix goes."""


def checkpoint_from_file(path: Path, *, weights: str | None = None, strip_prefix: str | None = None) -> Checkpoint:
    """Read safetensors, the index of its shards, or a file of ``torch.save``: a pickle's code is never run.

    Args:
        path: the file; what it is its content says, whatever its name.
        weights: the part that counts, where there are several: ``"ema_state_dict"``, ``"state_dict.model"``.
        strip_prefix: what to take off the names of that part; names without it are left out. By default the prefix is
            found by matching the names with those of the network.

    Raises:
        CheckpointError: the file is absent, truncated, of another kind, or holds what could run code or no tensors; or
            it has no part and no prefix of these names.
    """
    with _opened(path) as (stream, kind):
        if kind is Kind.INDEX:
            found, metadata, sha256 = _from_index(path, stream)
        else:
            found, metadata = _from_stream(path, stream, kind)
            sha256 = _sha256(stream)
    if not found.tensors:
        beside = "; ".join(f"{name} is {what}" for name, what in list(found.others.items())[:_SHOWN] if name)
        alone = found.others.get("", "nothing")
        raise CheckpointError(f"{path} holds no weights, no tensors of ordinary numbers: {beside or alone}")
    for what, prefix in ((f"no weights={weights!r}", weights), (f"no names with {strip_prefix!r}", strip_prefix)):
        if prefix is not None:
            found = _below(path, found, prefix, what)
    return Checkpoint(path, found.tensors, sha256, metadata, found.others, exact=strip_prefix is not None)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Kind]]:
    """A file of weights and its kind. What the system says becomes :class:`CheckpointError`."""
    try:
        with opened_file(path, CHECKPOINT_BYTES) as stream:
            yield stream, kind_of(path, stream)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except CheckpointError:
        raise
    except InputError as error:
        raise CheckpointError(f"cannot read the checkpoint: {error}") from error


def _below(path: Path, found: Contents, prefix: str, what: str) -> Contents:
    """What stands under a name, without it."""
    dotted = prefix if prefix.endswith(".") else f"{prefix}."
    # A prefix may also end in the middle of a name, "net_" for example.
    used = dotted if any(name.startswith(dotted) for name in found.tensors) else prefix
    tensors = {name.removeprefix(used): tensor for name, tensor in found.tensors.items() if name.startswith(used)}
    if not tensors:
        there = dict.fromkeys(name.partition(".")[0] for name in found.tensors)
        more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
        raise CheckpointError(f"{path} has {what}; its names begin with {', '.join(list(there)[:_SHOWN])}{more}")
    others = {name.removeprefix(used): held for name, held in found.others.items() if name.startswith(used)}
    return Contents(tensors, others)


def _from_stream(path: Path, stream: BinaryIO, kind: Kind) -> tuple[Contents, Mapping[str, str]]:
    if kind is Kind.PICKLE:
        return contents_of(path, unpickled(path, stream)), {}
    return _from_safetensors(path, stream)


def _from_safetensors(path: Path, stream: BinaryIO) -> tuple[Contents, Mapping[str, str]]:
    """Tensors and metadata. The tensors are the file's own pages, mapped: a large one is not held twice."""
    try:
        import safetensors
    except ImportError as error:
        raise MissingDependency("safetensors", "export") from error
    found = Contents()
    try:
        # The file that was checked, by its descriptor: the path may lead to another one by now.
        with safetensors.safe_open(f"/proc/self/fd/{stream.fileno()}", framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                try:
                    found.tensors[name] = file.get_tensor(name)
                except Exception:  # noqa: BLE001
                    # PyTorch has no such type, and says so in other ways for each.
                    found.others[name] = f"a tensor of {file.get_slice(name).get_dtype()}"
            metadata = file.metadata() or {}
    except Exception as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error
    plain = contents_of(path, found.tensors)
    return Contents(plain.tensors, {**found.others, **plain.others}), metadata


def _from_index(path: Path, stream: BinaryIO) -> tuple[Contents, Mapping[str, str], str]:
    """The tensors of all shards that an index names, ``model.safetensors.index.json`` for example."""
    document = stream.read(CHECKPOINT_INDEX_BYTES + 1)
    if len(document) > CHECKPOINT_INDEX_BYTES:
        raise CheckpointError(f"{path} is a text of more than {CHECKPOINT_INDEX_BYTES >> 20} MiB; {READ}")
    try:
        read: Any = json_of(document.decode("utf-8-sig"))
    except ValueError as error:
        raise CheckpointError(f"{path} is no checkpoint and no index of one: {error}") from error
    places = read.get("weight_map") if isinstance(read, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise CheckpointError(f"{path} is a document of JSON without the weight_map of an index; {READ}")
    digests = {path.name: hashlib.sha256(document).hexdigest()}
    found, left = Contents(), CHECKPOINT_BYTES
    for name in sorted(set(places.values())):
        if Path(name).name != name or name in (".", ".."):
            raise CheckpointError(f"{path} names the shard {name!r}; shards lie beside their index")
        shard = path.parent / name
        with _opened(shard) as (stream, kind):
            if kind is Kind.INDEX:
                raise CheckpointError(f"{path} names the shard {name!r}, which is no file of weights")
            left -= stream.seek(0, 2)
            if left < 0:
                raise CheckpointError(f"{path}: its shards are larger than {CHECKPOINT_BYTES >> 30} GiB together")
            held, _ = _from_stream(shard, stream, kind)
            digests[name] = _sha256(stream)
        wanted = [key for key, place in places.items() if place == name]
        if absent := [key for key in wanted if key not in held.tensors and key not in held.others]:
            raise CheckpointError(f"{shard} has no {absent[0]}, which {path.name} says is there")
        found.tensors.update({key: held.tensors[key] for key in wanted if key in held.tensors})
        found.others.update({key: held.others[key] for key in wanted if key in held.others})
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return found, {}, hashlib.sha256(listing.encode()).hexdigest()


def _sha256(stream: BinaryIO) -> str:
    stream.seek(0)
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
