"""What an engine turned out to be: its layers, the tactics it was built of, and what it gives.

TensorRT times kernels ("tactics") and keeps the fastest, so two builds of one graph may differ. These records say
whether they do, and :class:`Tactics` is what a build is repeated from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, TypeAlias

import msgspec

from engines.bundle.names import Sha256
from engines.bundle.records.codec import Record

MOST_TACTICS = 2**16
"""Of a graph, that a record holds."""


class Tactic(Record, frozen=True, kw_only=True, array_like=True):
    """The kernel that TensorRT chose for one problem."""

    key: Annotated[str, msgspec.Meta(pattern=r"^[!-~]{1,128}(?!\n)$")]
    """The problem, as TensorRT writes it: ``0x`` and 32 hexadecimal digits."""
    tactic: Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{16}$", max_length=18)]
    """The kernel's hash, 64 bits: as text, since many readers of JSON keep 53."""
    ms: Annotated[float, msgspec.Meta(ge=0)]
    """How long it took when it was chosen. TensorRT weighs layouts against each other by these times."""


_Tactics: TypeAlias = Annotated[list[Tactic], msgspec.Meta(max_length=MOST_TACTICS)]


class Tactics(Record, frozen=True, kw_only=True):
    """All that TensorRT chose, by key, for both graphs of an engine."""

    trunk: _Tactics
    prepare: _Tactics

    def __post_init__(self) -> None:
        """Raise ``ValueError``, which msgspec passes on as its own, for keys that are not sorted or come twice."""
        for tactics in (self.trunk, self.prepare):
            keys = [tactic.key for tactic in tactics]
            if any(key >= following for key, following in pairwise(keys)):
                raise ValueError("the tactics are not sorted by key, or have a key twice")


class EngineLayer(Record, frozen=True, kw_only=True, array_like=True):
    """A layer of a finished engine, as its inspector tells it."""

    name: str
    kind: str
    tactic: str
    """Name and hash of its kernel, as far as TensorRT says them."""
    inputs: tuple[str, ...]
    """Type, layout and dimensions of each tensor."""
    outputs: tuple[str, ...]


class EngineLayers(Record, frozen=True, kw_only=True):
    """The layers of one engine in the order in which they run."""

    sha256: Sha256
    """Of :func:`layers_sha256`."""
    layers: list[EngineLayer]

    @classmethod
    def of(cls, layers: Iterable[EngineLayer]) -> EngineLayers:
        """With their hash."""
        held = list(layers)
        return cls(sha256=layers_sha256(held), layers=held)

    def __post_init__(self) -> None:
        """Raise ``ValueError``, which msgspec passes on as its own, for a hash of other layers."""
        if self.sha256 != layers_sha256(self.layers):
            raise ValueError("the hash of the layers is not that of the layers")


class OutputDigest(Record, frozen=True, kw_only=True):
    """What an engine gave for a reference frame."""

    frame: str
    """Name of its file."""
    frame_sha256: Sha256
    output_sha256: Sha256
    """Of the whole frame's prediction: the bytes of the labels, or of what else the bundle gives, in C order."""


class Fingerprint(Record, frozen=True, kw_only=True):
    """By what two engines are told apart. A text says why a part is missing."""

    trunk: EngineLayers | str
    prepare: EngineLayers | str
    outputs: list[OutputDigest] | str


def layers_sha256(layers: Iterable[EngineLayer]) -> str:
    """SHA-256 over the layers: each one as compact JSON in UTF-8, ``[name, kind, tactic, inputs, outputs]``, a line."""
    digest = hashlib.sha256()
    for layer in layers:
        digest.update(msgspec.json.encode(layer) + b"\n")
    return digest.hexdigest()
