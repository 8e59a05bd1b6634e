"""What a checkpoint holds: every tensor under one dotted name, however deep the mappings are that hold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.errors import CheckpointError

_DEPTH = 12
"""Mappings in each other. A state dict of a wrapper of a trainer of a search has 5."""
_PLAIN = frozenset(
    {
        torch.bool,
        torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
        torch.complex64, torch.complex128,
    }
)  # fmt: skip


@dataclass
class Contents:
    """The leaves of a checkpoint by their names: ``state_dict.model.conv1.weight``."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    """Dense ones of numbers that a network can have."""
    others: dict[str, str] = field(default_factory=dict)
    """What else there is, in words: ``an int``."""


def contents_of(path: Path, loaded: Any) -> Contents:
    """Name everything in nested mappings and sequences; a key that is no text hides what is below it.

    That leaves out the states of optimizers, which are kept by number, and finds parts of a network that were saved
    beside each other, ``{"encoder": ..., "decoder": ...}``. A mapping that is held twice is named once.

    Raises :class:`CheckpointError` where two tensors get one name, and for nesting that no checkpoint has.
    """
    found = Contents()
    _walk(path, loaded, (), found, set())
    return found


def _walk(path: Path, value: Any, names: tuple[str, ...], found: Contents, seen: set[int]) -> None:
    if len(names) > _DEPTH:
        raise CheckpointError(f"{path} holds mappings that are nested more than {_DEPTH} deep: no checkpoint is")
    inner: Any = None
    if isinstance(value, Mapping):
        inner = ((key, held) for key, held in value.items() if isinstance(key, str))
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        inner = ((str(index), held) for index, held in enumerate(value))
    if inner is not None:
        # What holds itself would have no end, and what is held often many names.
        if id(value) not in seen:
            seen.add(id(value))
            for key, held in inner:
                _walk(path, held, (*names, key), found, seen)
        return
    name = ".".join(names)
    if name in found.tensors or name in found.others:
        raise CheckpointError(f"{path} holds two values that are called {name!r}")
    if _is_plain(value):
        found.tensors[name] = value
    else:
        found.others[name] = _described(value)


def _is_plain(value: Any) -> bool:
    """Whether a value is a dense tensor of numbers that a network can have."""
    return (
        type(value) in (Tensor, torch.nn.Parameter)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in _PLAIN
    )


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a value of type {type(value).__name__}"
    kind = str(value.dtype).removeprefix("torch.")
    if value.layout is not torch.strided:
        kind += f" {str(value.layout).removeprefix('torch.')}"
    return f"a tensor of {kind}" + (" without values" if value.device.type == "meta" else "")
