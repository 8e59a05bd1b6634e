"""A bundle is signed, and its signature verified. What a bundle signs is said here alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from engines.bundle.bundle import Bundle
from engines.bundle.manifest import SIGNATURE_NAME, TARGET_NAME, TARGET_SIGNATURE_NAME
from engines.errors import BundleError, InputError
from engines.trust.authorities import Authority, Role, Signer, require_cryptography
from engines.trust.envelopes import MOST_BYTES
from engines.trust.policy import Policy
from engines.trust.verifying import Release, SignedSet, verified, verify

SIGNATURE_NAMES = {Role.BUNDLE: SIGNATURE_NAME, Role.TARGET: TARGET_SIGNATURE_NAME}
"""Where the signature of each role lies in a bundle."""


def signed_set(bundle: Bundle, role: Role = Role.BUNDLE) -> SignedSet:
    """What is signed of an open bundle in a role, and its signature.

    Raises :class:`BundleError` where the signature is no regular file, or nothing was added on the target.
    """
    name = SIGNATURE_NAMES[role]
    try:
        signature = bundle.folder.read(name, MOST_BYTES)
    except FileNotFoundError:
        signature = None
    return SignedSet(role, digests_of(bundle, role), signature, str(bundle.path / name))


def digests_of(bundle: Bundle, role: Role = Role.BUNDLE) -> dict[str, str]:
    """What is signed in a role, ``{name: SHA-256}``: a manifest and every file that it lists."""
    found = bundle.export_digests if role is Role.BUNDLE else bundle.target_digests
    if not found:
        raise BundleError(f"{bundle.path} has no {TARGET_NAME}: nothing was added on a target that could be signed")
    return found


def check_trust(bundle: Bundle, trust: Policy | str | Path, *, remember: bool = False) -> dict[Role, Signer]:
    """Who signed a bundle and what was added to it on the target: the policy must name them.

    To be called before anything of the bundle is given to a runtime. What is listed is then read as it was signed, or
    not at all. An older version than one that was remembered is refused. This one is remembered where that is asked
    for: a new bundle may prove itself first, and a vehicle may hold the file where it cannot be written. Raises as
    :func:`verify_bundle` does.
    """
    roles = [Role.BUNDLE] if bundle.target_sha256 is None else [Role.BUNDLE, Role.TARGET]
    sets = [signed_set(bundle, role) for role in roles]
    release = Release(bundle.manifest.product, bundle.manifest.version)
    return verified(sets, Policy.of(trust), release, remember=remember)


def sign_bundle(
    bundle: Bundle | str | Path,
    key: str | Path,
    *,
    certificate: str | Path | None = None,
    certificate_chain: Sequence[str | Path] = (),
    pass_phrase: str | None = None,
    role: Role = Role.BUNDLE,
) -> Path:
    """Sign a bundle's manifest and every file that it lists; give the path of the signature, ``model.sig`` in it.

    On a target, what was added there is signed on its own: ``target.json`` and its files, in ``target.sig``.

    A signature that is there is replaced.

    Args:
        bundle: an open bundle, or its directory.
        key: the private key in PEM, of P-256, P-384 or P-521.
        certificate: PEM, of the key's owner.
        certificate_chain: PEM files with the certificates between the owner's and the root, and the root.
        pass_phrase: of a key that is encrypted.
        role: ``Role.TARGET`` signs what was added on the target.

    Raises:
        BundleError: nothing was added on a target.
        InputError: a file that is not what it should be; the message names it.
        OutputError: the signature cannot be written.
        MissingDependency: ``cryptography`` is not installed.
    """
    require_cryptography()
    from engines.trust.signing import SigningKey

    if certificate_chain and certificate is None:
        raise InputError("certificate_chain= leads from the owner's certificate to a root: give certificate=, too")
    signing = SigningKey.open(Path(key), pass_phrase)
    if certificate is not None:
        signing = signing.certified(Path(certificate), tuple(map(Path, certificate_chain)))
    opened = Bundle.of(bundle)
    opened.check_unchanged()
    # A file system may hold names that are no text; this one is for people only.
    name = os.fsencode(opened.path.resolve().name).decode("utf-8", "replace")
    content = signing.signature(name, digests_of(opened, role))
    opened.folder.write(SIGNATURE_NAMES[role], content)
    return opened.path / SIGNATURE_NAMES[role]


def verify_bundle(
    bundle: Bundle | str | Path,
    *,
    key: str | Path | None = None,
    certificate_chain: Sequence[str | Path] = (),
    trust: Policy | str | Path | None = None,
    remember: bool = False,
) -> Signer:
    """Who signed a bundle, proven by one of: a public key, root certificates, or a policy.

    Args:
        bundle: an open bundle, or its directory.
        key: the public key in PEM.
        certificate_chain: PEM files with the root certificates that are trusted, and others that lead to them.
        trust: a policy, or its file; then versions that are older than a remembered one are refused.
        remember: whether the policy's file of versions remembers this one.

    Raises:
        UntrustedBundle: the signature does not hold, somebody else made it, a certificate has expired, or the version
            is an older one.
        BundleError: the bundle is damaged, or not signed, or its signature cannot be read.
        InputError: not one of the three is given, or one of their files is not what it should be.
        MissingDependency: ``cryptography`` is not installed.
    """
    if (key is not None) + bool(certificate_chain) + (trust is not None) != 1:
        raise InputError("one of key=, certificate_chain= and trust= says whose signature is taken; give one")
    if remember and trust is None:
        raise InputError("remember= needs the file of versions that trust= names")
    if trust is not None:
        return check_trust(Bundle.of(bundle), trust, remember=remember)[Role.BUNDLE]
    authority = _authority(key, certificate_chain)
    return verify(signed_set(Bundle.of(bundle)), [authority])


def _authority(key: str | Path | None, certificate_chain: Sequence[str | Path]) -> Authority:
    require_cryptography()
    if key is not None:
        from engines.trust.keys import TrustedKey

        return TrustedKey.open(Path(key))
    from engines.trust.certificates import TrustedRoots

    return TrustedRoots.open(list(map(Path, certificate_chain)))
