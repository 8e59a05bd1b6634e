"""The policy: a file of the user's that says who may sign what, and where accepted versions are remembered."""

from __future__ import annotations

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
_FileName: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00]+\Z")]


class _Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Somebody who may sign."""

    name: _Text
    """What messages and remembered versions call them; somebody with an old and a new key has it twice."""
    roles: Annotated[list[Role], msgspec.Meta(min_length=1)]
    products: list[_Text] = []
    """Whose bundles they may sign, :attr:`Manifest.product`; belongs to the role ``bundle``."""

    def __post_init__(self) -> None:
        if Role.BUNDLE in self.roles and not self.products:
            raise ValueError(f"{self.name!r} may sign bundles: products has to say of which, as the bundles name them")
        if self.products and Role.BUNDLE not in self.roles:
            raise ValueError(f"{self.name!r} signs no bundles, so products means nothing")


class KeyRule(_Rule, frozen=True, tag="key"):
    """The owner of a key."""

    key: _FileName
    """The public key's file in PEM, relative to the policy."""
    sha256: _Sha256 | None = None
    """Of the key, :attr:`engines.trust.Signer.key_sha256`: the file must hold this one."""


class CertificateRule(_Rule, frozen=True, tag="certificate"):
    """Whose certificate leads to a root, and is one that is meant."""

    roots: _FileName
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
    versions: _FileName | None = None
    """The file of accepted versions, relative to the policy; without it older versions are taken, too."""


@dataclass(frozen=True)
class Policy:
    """A policy with its keys and certificates read."""

    path: Path
    signers: tuple[tuple[KeyRule | CertificateRule, Authority], ...]
    versions: Versions | None

    def authorities(self, role: Role, product: str) -> tuple[Authority, ...]:
        """Who may sign in a role; the role ``bundle`` for this product alone."""
        return tuple(
            authority
            for rule, authority in self.signers
            if role in rule.roles and (role is not Role.BUNDLE or product in rule.products)
        )

    @classmethod
    def open(cls, path: str | Path) -> Policy:
        """Read a policy and the keys and certificates that it names.

        Raises :class:`InputError`, which names the file, and :class:`MissingDependency` without ``cryptography``.
        """
        path = Path(path)
        held = document_from_json(read_file(path, _MOST_BYTES), PolicyFile, str(path), InputError)
        return cls(
            path,
            tuple((rule, _authority(rule, path)) for rule in held.signers),
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
    try:
        identity = Identity(rule.subject, rule.alternative_name, rule.sha256)
    except InputError as error:
        raise InputError(f"{policy} cannot be used: {error}") from error
    return TrustedRoots.open([policy.parent / rule.roots], rule.name, identity)
