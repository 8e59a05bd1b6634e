"""The policy: a file of the user's that says who may sign what, and where accepted versions are remembered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec

from engines.bundle.gate import read_file
from engines.errors import InputError
from engines.trust.authorities import Authority, Role, require_cryptography
from engines.trust.documents import document_from_json
from engines.trust.versions import Versions

_MOST_BYTES = 1 << 20

_Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Text: TypeAlias = Annotated[str, msgspec.Meta(min_length=1)]


class _Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Somebody who may sign."""

    name: _Text
    """What messages and remembered versions call them; somebody with an old and a new key has it twice."""
    roles: Annotated[list[Role], msgspec.Meta(min_length=1)]


class KeyRule(_Rule, frozen=True, tag="key"):
    """The owner of a key."""

    key: _Text
    """The public key's file in PEM, relative to the policy."""
    sha256: _Sha256 | None = None
    """Of the key, :attr:`engines.trust.Signer.key_sha256`: the file must hold this one."""


class CertificateRule(_Rule, frozen=True, tag="certificate"):
    """Whose certificate leads to a root, and is one that is meant."""

    roots: _Text
    """The root certificates' file in PEM, relative to the policy."""
    subject: _Text | None = None
    """RFC 4514."""
    alternative_name: Annotated[str, msgspec.Meta(pattern=r"\A(email|URI|DNS):.")] | None = None
    sha256: _Sha256 | None = None
    """Of the certificate (DER)."""


class PolicyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file."""

    policy_version: Literal[1]
    signers: Annotated[list[KeyRule | CertificateRule], msgspec.Meta(min_length=1)]
    versions: _Text | None = None
    """The file of accepted versions, relative to the policy; without it older versions are taken, too."""


@dataclass(frozen=True)
class Policy:
    """A policy with its keys and certificates read."""

    path: Path
    authorities: Mapping[Role, tuple[Authority, ...]]
    """Who may sign what; every role has an entry."""
    versions: Versions | None

    @classmethod
    def open(cls, path: str | Path) -> Policy:
        """Read a policy and the keys and certificates that it names.

        Raises :class:`InputError`, which names the file, and :class:`MissingDependency` without ``cryptography``.
        """
        path = Path(path)
        held = document_from_json(read_file(path, _MOST_BYTES), PolicyFile, str(path), InputError)
        rules = [(rule, _authority(rule, path)) for rule in held.signers]
        return cls(
            path,
            {role: tuple(authority for rule, authority in rules if role in rule.roles) for role in Role},
            None if held.versions is None else Versions(path.parent / held.versions),
        )

    @classmethod
    def of(cls, source: Policy | str | Path) -> Policy:
        """An open policy as it is, and the one of a path opened."""
        return source if isinstance(source, Policy) else cls.open(source)


def _authority(rule: KeyRule | CertificateRule, policy: Path) -> Authority:
    require_cryptography()
    if isinstance(rule, KeyRule):
        from engines.trust.keys import TrustedKey

        return TrustedKey.open(policy.parent / rule.key, rule.name, rule.sha256)
    from engines.trust.certificates import Identity, TrustedRoots

    if rule.subject is None and rule.alternative_name is None and rule.sha256 is None:
        # An authority vouches for many; a policy says which of them.
        raise InputError(
            f"{policy} names the roots {rule.roots!r} for {rule.name!r} without a subject, alternative_name or sha256"
        )
    identity = Identity(rule.subject, rule.alternative_name, rule.sha256)
    return TrustedRoots.open([policy.parent / rule.roots], rule.name, identity)
