"""A bundle is signed, and its signature verified. What a bundle signs is said here alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engines.bundle.bundle import Bundle
from engines.bundle.comparing import build_record_of
from engines.bundle.manifest import SIGNATURE_NAME, TARGET_NAME, TARGET_SIGNATURE_NAME
from engines.bundle.provenance import other_files
from engines.errors import BundleError, InputError
from engines.trust.authorities import Authority, Role, Signer, require_cryptography
from engines.trust.envelopes import MOST_BYTES, envelope_from_json
from engines.trust.policy import Policy
from engines.trust.verifying import Release, SignedSet, verified, verify

if TYPE_CHECKING:
    from engines.trust.signing import SigningKey

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
    for: a new bundle may prove itself first, and a vehicle may hold the file where it cannot be written. What is added
    to it from now on is added to what was verified alone (:meth:`Bundle.hold`). Raises as :func:`verify_bundle` does.
    """
    signers = verified(_signed_sets(bundle), Policy.of(trust), _release(bundle), remember=remember)
    bundle.hold()
    return signers


def _signed_sets(bundle: Bundle) -> list[SignedSet]:
    """All that must be signed of a bundle."""
    roles = [Role.BUNDLE] if bundle.target_sha256 is None else [Role.BUNDLE, Role.TARGET]
    return [signed_set(bundle, role) for role in roles]


def _release(bundle: Bundle) -> Release:
    return Release(bundle.manifest.product, bundle.manifest.version)


def sign_bundle(
    bundle: Bundle | str | Path,
    key: str | Path,
    *,
    certificate: str | Path | None = None,
    certificate_chain: str | Path | Sequence[str | Path] = (),
    pass_phrase: str | None = None,
    role: Role = Role.BUNDLE,
    trust: Policy | str | Path | None = None,
    replace: bool = False,
) -> Path:
    """Sign a bundle's manifest and every file that it lists; give the path of the signature, ``model.sig`` in it.

    On a target, what was added there is signed on its own: ``target.json`` and its files, in ``target.sig``. All of it:
    who signs says of every engine that it was built here. So the export must be signed by somebody whom the policy
    names, and every engine must be the one of its build record, built from the bundle's graphs and weights; where else
    it may come from, nobody can tell but who signs.

    A signature of this key that is there is replaced, another's where that is asked for.

    Args:
        bundle: an open bundle, or its directory.
        key: the private key in PEM, of P-256, P-384 or P-521.
        certificate: PEM, of the key's owner.
        certificate_chain: PEM files, or one, with the certificates between the owner's and the root, and the root.
        pass_phrase: of a key that is encrypted.
        role: ``Role.TARGET`` signs what was added on the target.
        trust: a policy, or its file, that must take the signature; needed on the target.
        replace: also the signature of another key, or what cannot be read as one.

    Raises:
        BundleError: nothing was added on a target, or an engine is not the one of its build record.
        UntrustedBundle: the policy would not take the signature, or on the target that of the export.
        InputError: another key's signature is there, no policy on the target, or a file that is not what it should be;
            the message names it.
        OutputError: the signature cannot be written.
        MissingDependency: ``cryptography`` is not installed.
    """
    require_cryptography()
    from engines.trust.signing import SigningKey

    chain = _paths(certificate_chain)
    if chain and certificate is None:
        raise InputError("certificate_chain= leads from the owner's certificate to a root: give certificate=, too")
    if role is Role.TARGET and trust is None:
        raise InputError("what was added on a target is signed where a policy takes the export: give trust=")
    signing = SigningKey.open(Path(key), pass_phrase)
    if certificate is not None:
        signing = signing.certified(Path(certificate), tuple(chain))
    opened = Bundle.of(bundle)
    opened.check_unchanged()
    # A file system may hold names that are no text; this one is for people only.
    name = os.fsencode(opened.path.resolve().name).decode("utf-8", "replace")
    digests, path = digests_of(opened, role), opened.path / SIGNATURE_NAMES[role]
    content = signing.signature(name, digests)
    if trust is not None:
        new = SignedSet(role, digests, content, str(path))
        sets = [new] if role is Role.BUNDLE else [signed_set(opened), new]
        verified(sets, Policy.of(trust), _release(opened))
    if role is Role.TARGET:
        _check_builds(opened)
    if not replace:
        _check_own(opened, role, signing)
    opened.folder.write(SIGNATURE_NAMES[role], content)
    return path


def _check_builds(bundle: Bundle) -> None:
    for engine in bundle.engines:
        if wrong := other_files(bundle, engine, build_record_of(bundle, engine)):
            raise BundleError(
                f"{bundle.path / engine.engine} is not what {engine.record} says: other {' and '.join(wrong)}; "
                "build it again"
            )


def _check_own(bundle: Bundle, role: Role, signing: SigningKey) -> None:
    """Raise :class:`InputError` unless what would be replaced is nothing, or a signature of this key."""
    where = bundle.path / SIGNATURE_NAMES[role]
    try:
        held = signed_set(bundle, role)
        own = held.signature is None or signing.made(envelope_from_json(held.signature, held.where))
    except BundleError:
        own = False
    if not own:
        raise InputError(f"{where} is not a signature of this key: give replace=True to put one in its place")


def verify_bundle(
    bundle: Bundle | str | Path,
    *,
    key: str | Path | None = None,
    certificate_chain: str | Path | Sequence[str | Path] = (),
    trust: Policy | str | Path | None = None,
    remember: bool = False,
) -> Signer:
    """Who signed a bundle, proven by one of: a public key, root certificates, or a policy.

    Where something was added on a target, it must be signed, too: with a policy by who may, else by the same key, or by
    somebody for whom the same roots vouch. So what is verified is all that a session reads.

    Args:
        bundle: an open bundle, or its directory.
        key: the public key in PEM.
        certificate_chain: PEM files, or one, with the root certificates that are trusted, and others that lead to them.
        trust: a policy, or its file; then versions that are older than a remembered one are refused.
        remember: whether the policy's file of versions remembers this one.

    Raises:
        UntrustedBundle: the signature does not hold, somebody else made it, a certificate has expired, or the version
            is an older one.
        BundleError: the bundle is damaged, or not signed, or its signature cannot be read.
        InputError: not one of the three is given, or one of their files is not what it should be.
        MissingDependency: ``cryptography`` is not installed.
    """
    chain = _paths(certificate_chain)
    if (key is not None) + bool(chain) + (trust is not None) != 1:
        raise InputError("one of key=, certificate_chain= and trust= says whose signature is taken; give one")
    if remember and trust is None:
        raise InputError("remember= needs the file of versions that trust= names")
    if trust is not None:
        return check_trust(Bundle.of(bundle), trust, remember=remember)[Role.BUNDLE]
    authority = _authority(key, chain)
    of_bundle, *of_target = _signed_sets(Bundle.of(bundle))
    signer = verify(of_bundle, [authority])
    for signed in of_target:
        try:
            verify(signed, [authority])
        except BundleError as error:
            hint = f"{TARGET_NAME} lists what was added on a target, and trust= names a policy of who may sign it"
            raise type(error)(f"{error}; {hint}") from error
    return signer


def _paths(given: str | Path | Sequence[str | Path]) -> list[Path]:
    return [Path(given)] if isinstance(given, (str, Path)) else list(map(Path, given))


def _authority(key: str | Path | None, certificate_chain: list[Path]) -> Authority:
    require_cryptography()
    if key is not None:
        from engines.trust.keys import TrustedKey

        return TrustedKey.open(Path(key))
    from engines.trust.certificates import TrustedRoots

    return TrustedRoots.open(certificate_chain)
