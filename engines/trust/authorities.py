"""Whose signatures are taken."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from engines.errors import MissingDependency
from engines.trust.envelopes import Envelope


class Role(enum.Enum):
    """What a signature is for."""

    BUNDLE = "bundle"
    """What was exported: the manifest and every file that it lists."""
    TARGET = "target"
    """What was made of it on a machine: engines and tunings."""


@dataclass(frozen=True)
class Signer:
    """Who signed, as proven."""

    name: str
    """As the policy calls them; without a policy the file of the key, or of the root certificates."""
    key_sha256: str
    """Of the public key's PEM text: what ``sha256sum`` says of the file that ``openssl pkey -pubout`` writes."""
    certificate: str | None = None
    """The subject of the signer's certificate (RFC 4514), where there is one."""


class Authority(Protocol):
    """A key, or certificates, whose signatures are taken."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    def signer(self, envelope: Envelope, now: datetime) -> Signer:
        """Who made the signature of an envelope.

        Raises :class:`engines.errors.UntrustedBundle` where this authority does not vouch for it; the message is a
        sentence's end that follows the name of the file, "was made by another key".
        """
        ...


def require_cryptography() -> None:
    """Raise :class:`MissingDependency` unless ``cryptography`` can be imported."""
    try:
        import cryptography  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependency("cryptography", "sign") from error
