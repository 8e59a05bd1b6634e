"""Whether a set of files is what somebody signed who may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from engines.bundle.manifest import MANIFEST_NAME
from engines.errors import BundleError, UntrustedBundle
from engines.trust.authorities import Authority, Role, Signer
from engines.trust.envelopes import Envelope, envelope_from_json
from engines.trust.statements import digests_from_statement

if TYPE_CHECKING:
    from engines.trust.policy import Policy

_SHOWN = 3


@dataclass(frozen=True)
class SignedSet:
    """Files that are signed together, as they are, and what is said to be their signature.

    Whoever makes one has hashed the bytes that will be used; nothing is read again.
    """

    role: Role
    digests: Mapping[str, str]
    """``{name: SHA-256 in lower-case hexadecimal}``, of the manifest too: it ties a target's files to their bundle."""
    signature: bytes | None
    """The content of the signature file; ``None`` where there is none."""
    where: str
    """What messages call the signature: its path."""

    def __post_init__(self) -> None:
        if MANIFEST_NAME not in self.digests:
            raise ValueError(f"a signed set has {MANIFEST_NAME}; received {sorted(self.digests)}")


@dataclass(frozen=True)
class Release:
    """Which version of which product a bundle is."""

    product: str
    version: int


def verify(signed: SignedSet, authorities: Sequence[Authority], now: datetime | None = None) -> Signer:
    """Who signed these files: the first of the authorities that vouches for the signature.

    Every file must be signed as it is, and every signed file must be there. Certificates are judged at ``now``, by
    default the time of the call.

    Raises:
        BundleError: there is no signature, or one that cannot be read.
        UntrustedBundle: the signature does not hold, or nobody vouches for it.
        MissingDependency: ``cryptography`` is not installed.
    """
    if signed.signature is None:
        raise BundleError(f"{signed.where} is not there: the {signed.role.value} is not signed")
    envelope = envelope_from_json(signed.signature, signed.where)
    # The payload is parsed when it is known who wrote it.
    signer = _signer(envelope, authorities, signed, now or datetime.now(timezone.utc))
    _check_files(signed, digests_from_statement(envelope.payload, signed.where))
    return signer


def verified(
    sets: Sequence[SignedSet],
    policy: Policy,
    release: Release,
    *,
    remember: bool = False,
    now: datetime | None = None,
) -> dict[Role, Signer]:
    """Who signed each of the sets, one of each role: the policy must name all of them for what they signed.

    Who signs bundles does so for the products that the policy says.

    The version must not be older than one that was accepted before; with ``remember`` it is what is remembered.
    Call it before anything of these files is parsed by a runtime. Raises as :func:`verify` does, and
    :class:`engines.errors.OutputError` where the version cannot be written down.
    """
    by_role = {signed.role: signed for signed in sets}
    if Role.BUNDLE not in by_role or len(by_role) < len(sets):
        raise ValueError(f"a bundle, and no role twice; received {[signed.role.value for signed in sets]}")
    if len({signed.digests[MANIFEST_NAME] for signed in sets}) > 1:
        raise ValueError("the sets are of several bundles: their manifests differ")
    signers = {}
    for role, signed in by_role.items():
        authorities = policy.authorities(role, release.product)
        if not authorities and role is Role.BUNDLE:
            raise _nobody(signed, f" of the product {release.product!r}")
        signers[role] = verify(signed, authorities, now)
    if policy.versions is not None:
        signer, where = signers[Role.BUNDLE].name, by_role[Role.BUNDLE].where
        policy.versions.check(signer, release, where)
        if remember:
            policy.versions.remember(signer, release, where)
    return signers


def _signer(envelope: Envelope, authorities: Sequence[Authority], signed: SignedSet, now: datetime) -> Signer:
    reasons = []
    for authority in authorities:
        try:
            return authority.signer(envelope, now)
        except UntrustedBundle as error:
            reasons.append(str(error))
    if not reasons:
        raise _nobody(signed)
    # One reason may be given by several, who differ in their names alone.
    raise UntrustedBundle(f"{signed.where} {'; it '.join(dict.fromkeys(reasons))}")


def _nobody(signed: SignedSet, more: str = "") -> UntrustedBundle:
    return UntrustedBundle(
        f"{signed.where} is of no use: the policy names nobody who may sign a {signed.role.value}{more}"
    )


def _check_files(signed: SignedSet, expected: Mapping[str, str]) -> None:
    found = signed.digests
    if MANIFEST_NAME in expected and expected[MANIFEST_NAME] != found[MANIFEST_NAME]:
        raise UntrustedBundle(
            f"{signed.where} is not of this {MANIFEST_NAME}: it was altered, or the signature is another bundle's"
        )
    changes = {
        "altered after signing": [name for name in found if expected.get(name, found[name]) != found[name]],
        "added after signing": [name for name in found if name not in expected],
        "signed, but not in the bundle": [name for name in expected if name not in found],
    }
    for change, names in changes.items():
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            shown = ", ".join(map(repr, sorted(names)[:_SHOWN]))
            raise UntrustedBundle(f"{signed.where} is not of these files; {change}: {shown}{more}")
