"""A bundle is signed, and its signature verified. What a bundle signs is said here alone."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from engines.bundle.bundle import Bundle
from engines.bundle.gate import Folder
from engines.bundle.manifest import MANIFEST_NAME, Manifest, manifest_from_json
from engines.errors import BundleError, InputError
from engines.trust.authorities import Authority, Role, Signer, require_cryptography
from engines.trust.envelopes import MOST_BYTES
from engines.trust.policy import Policy
from engines.trust.verifying import Release, SignedSet, verified, verify

SIGNATURE_NAMES = {Role.BUNDLE: "model.sig", Role.TARGET: "target.sig"}
"""Where signatures lie in a bundle; the first is what ``model_signing`` calls its own."""

_MOST_MANIFEST_BYTES = 16 << 20


def signed_set(bundle: Bundle) -> SignedSet:
    """What is signed of an open bundle, and its signature.

    Raises :class:`BundleError` as :func:`digests_of` does, and where the signature is no regular file.
    """
    name = SIGNATURE_NAMES[Role.BUNDLE]
    try:
        signature = Folder(bundle.path).read(name, MOST_BYTES)
    except FileNotFoundError:
        signature = None
    return SignedSet(Role.BUNDLE, digests_of(bundle), signature, str(bundle.path / name))


def digests_of(bundle: Bundle) -> dict[str, str]:
    """The manifest of an open bundle and every file that it lists, as they were proven: ``{name: SHA-256}``.

    Raises :class:`BundleError` where another manifest lies there by now.
    """
    document = Folder(bundle.path).read(MANIFEST_NAME, _MOST_MANIFEST_BYTES)
    if manifest_from_json(document) != bundle.manifest:
        raise BundleError(f"{bundle.path / MANIFEST_NAME} was replaced while it was open; do it again")
    own = {MANIFEST_NAME: hashlib.sha256(document).hexdigest()}
    return own | {name: record.sha256 for name, record in bundle.manifest.files.items()}


def sign_bundle(
    bundle: Bundle | str | Path,
    key: str | Path,
    *,
    certificate: str | Path | None = None,
    certificate_chain: Sequence[str | Path] = (),
    pass_phrase: str | None = None,
) -> Path:
    """Sign a bundle's manifest and every file that it lists; give the path of the signature, ``model.sig`` in it.

    A signature that is there is replaced.

    Args:
        bundle: an open bundle, or its directory.
        key: the private key in PEM, of P-256, P-384 or P-521.
        certificate: PEM, of the key's owner.
        certificate_chain: PEM files with the certificates between the owner's and the root, and the root.
        pass_phrase: of a key that is encrypted.

    Raises:
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
    # A file system may hold names that are no text; this one is for people only.
    name = os.fsencode(opened.path.resolve().name).decode("utf-8", "replace")
    content = signing.signature(name, digests_of(opened))
    Folder(opened.path).write(SIGNATURE_NAMES[Role.BUNDLE], content)
    return opened.path / SIGNATURE_NAMES[Role.BUNDLE]


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
        policy = Policy.of(trust)
        opened = Bundle.of(bundle)
        return verified([signed_set(opened)], policy, _release(opened.manifest), remember=remember)[Role.BUNDLE]
    authority = _authority(key, certificate_chain)
    return verify(signed_set(Bundle.of(bundle)), [authority])


def _authority(key: str | Path | None, certificate_chain: Sequence[str | Path]) -> Authority:
    require_cryptography()
    if key is not None:
        from engines.trust.keys import TrustedKey

        return TrustedKey.open(Path(key))
    from engines.trust.certificates import TrustedRoots

    return TrustedRoots.open(list(map(Path, certificate_chain)))


def _release(manifest: Manifest) -> Release:
    # A manifest counts no versions, so all are the first.
    return Release(manifest.network.source, version=0)
