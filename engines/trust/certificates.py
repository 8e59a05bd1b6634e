"""Certificates (X.509): from the signer's to a root that is trusted. Imports ``cryptography``.

Chains are built and judged by ``cryptography.x509.verification``; what a signer's certificate must be is said here.
Revocation is not checked: a vehicle has nobody to ask.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from engines.bundle.gate import read_file
from engines.errors import InputError, UntrustedBundle
from engines.trust.authorities import Signer
from engines.trust.envelopes import Envelope
from engines.trust.keys import MOST_BYTES, key_sha256, verifies
from engines.trust.names import name_from_text

_UNREADABLE = (
    ValueError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    UnsupportedAlgorithm,
    CryptographyDeprecationWarning,
)
"""What the parser raises, sooner or later."""

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@dataclass(frozen=True)
class Identity:
    """Whose certificate is meant: what is given must be in it; with nothing given, any that the roots vouch for."""

    subject: str | None = None
    """RFC 4514, read by :func:`engines.trust.names.name_from_text`: the same name in any spelling fits."""
    alternative_name: str | None = None
    """``email:...``, ``URI:...`` or ``DNS:...``, one of the certificate's names."""
    sha256: str | None = None
    """Of the certificate itself (DER), in lower-case hexadecimal."""

    def __post_init__(self) -> None:
        if self.subject is not None:
            name_from_text(self.subject)

    def fits(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate is the one that is meant."""
        return (
            (self.subject is None or name_from_text(self.subject) == certificate.subject)
            and (self.alternative_name is None or self.alternative_name in _alternative_names(certificate))
            and self.sha256 in (None, certificate.fingerprint(hashes.SHA256()).hex())
        )


@dataclass(frozen=True)
class TrustedRoots:
    """Root certificates: signatures are taken of those whom they vouch for."""

    name: str
    roots: tuple[x509.Certificate, ...]
    others: tuple[x509.Certificate, ...] = ()
    """Between the roots and the signers, for signatures that do not bring them."""
    identity: Identity = Identity()

    @classmethod
    def open(cls, paths: Sequence[Path], name: str | None = None, identity: Identity = Identity()) -> TrustedRoots:
        """Read certificates in PEM; those that are self-signed are roots. Raises :class:`InputError`."""
        found = [certificate for path in paths for certificate in certificates_from_pem(path)]
        shown = ", ".join(map(str, paths))
        roots = tuple(certificate for certificate in found if _is_root(certificate))
        if not roots:
            raise InputError(f"{shown}: none of these is the self-signed certificate of an authority")
        others = tuple(certificate for certificate in found if certificate not in roots)
        return cls(shown if name is None else name, roots, others, identity)

    def signer(self, envelope: Envelope, now: datetime) -> Signer:
        """See :class:`engines.trust.authorities.Authority`: certificates must be valid ``now``, whenever it signed."""
        if not envelope.certificates:
            raise UntrustedBundle("was made with a plain key, not with a certificate")
        try:
            with _strictly():
                own, *chain = map(x509.load_der_x509_certificate, envelope.certificates)
                subject, usable, key = own.subject.rfc4514_string(), _may_sign(own), own.public_key()
        except _UNREADABLE as error:
            raise UntrustedBundle("has a certificate that cannot be read") from error
        if not usable:
            raise UntrustedBundle(f"was made with the certificate of {subject!r}, which is {NOT_FOR_SIGNATURES}")
        if not self.identity.fits(own):
            raise UntrustedBundle(f"was made with the certificate of {subject!r}, who is not {self.name}")
        self._check_chain(own, [*chain, *self.others], now)
        if not verifies(key, envelope):
            raise UntrustedBundle(f"does not hold: it was altered, or not made with the certificate of {subject!r}")
        return Signer(self.name, key_sha256(key), subject)

    def _check_chain(self, own: x509.Certificate, others: list[x509.Certificate], now: datetime) -> None:
        try:
            self._chain(own, others, now)
        except VerificationError as error:
            subject = own.subject.rfc4514_string()
            reason = f"was made with the certificate of {subject!r}, for which the roots of {self.name} do not vouch"
            # What was good on its first day has become too old since.
            with contextlib.suppress(VerificationError):
                held = self._chain(own, others, own.not_valid_before_utc)
                late = ((certificate, wrong) for certificate in held if (wrong := _out_of_time(certificate, now)))
                for certificate, wrong in late:
                    reason = f"rests on the certificate of {certificate.subject.rfc4514_string()!r}, which {wrong}"
                    break
            raise UntrustedBundle(reason) from error

    def _chain(self, own: x509.Certificate, others: list[x509.Certificate], when: datetime) -> list[x509.Certificate]:
        """From the signer's certificate to a root. Raises ``VerificationError`` where none is good at that time."""
        policy = PolicyBuilder().store(Store(list(self.roots))).time(when)
        policy = policy.extension_policies(ca_policy=_authorities(), ee_policy=ExtensionPolicy.permit_all())
        return policy.build_client_verifier().verify(own, others).chain


def check_certificates(own: x509.Certificate, others: list[x509.Certificate], now: datetime) -> None:
    """Whether anybody may take a signature that comes with these certificates, the signer's own and those above it.

    The self-signed ones among the others count as roots; without one, all of them, for the verifier has the rest.
    Raises :class:`UntrustedBundle`; the message is a sentence's end that follows the name of the signer's certificate.
    """
    if not _may_sign(own):
        raise UntrustedBundle(f"is {NOT_FOR_SIGNATURES}")
    if late := _out_of_time(own, now):
        raise UntrustedBundle(f"cannot be used: it {late}")
    roots = tuple(filter(_is_root, others)) or tuple(others)
    if roots:
        try:
            TrustedRoots("", roots)._chain(own, others, now)
        except VerificationError as error:
            raise UntrustedBundle("does not lead to a root through the others, all of them valid today") from error


def certificates_from_pem(path: Path) -> list[x509.Certificate]:
    """The certificates in a file, at least one. Raises :class:`InputError`, which names it."""
    try:
        with _strictly():
            found = x509.load_pem_x509_certificates(read_file(path, MOST_BYTES))
            # Extensions and keys are parsed when they are first asked for.
            for certificate in found:
                _ = certificate.extensions, certificate.public_key()
    except _UNREADABLE as error:
        raise InputError(
            f"{path} cannot be used: it holds no certificate in PEM, or one that cannot be read"
        ) from error
    return found


@contextlib.contextmanager
def _strictly() -> Iterator[None]:
    """Inside, what the parser only warns of, since it will refuse it one day, is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CryptographyDeprecationWarning)
        yield


def _out_of_time(certificate: x509.Certificate, now: datetime) -> str:
    """What is wrong with the time, or ``""``."""
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return f"expired on {end:%Y-%m-%d}" if now > end else f"holds from {start:%Y-%m-%d}" if now < start else ""


def _is_root(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return constraints is not None and constraints.ca


NOT_FOR_SIGNATURES = (
    "not one for signatures: it needs the key usage digitalSignature or the extended usage codeSigning, no usage that "
    "lacks them, and must not be an authority's"
)


def _may_sign(certificate: x509.Certificate) -> bool:
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    extended = _extension(certificate, x509.ExtendedKeyUsage)
    if (constraints is not None and constraints.ca) or (usage is None and extended is None):
        return False
    # What is there restricts: the certificate of a web server signs no bundles.
    return (usage is None or usage.digital_signature) and (extended is None or _for_code(extended))


def _for_code(extended: x509.ExtendedKeyUsage) -> bool:
    return ExtendedKeyUsageOID.CODE_SIGNING in extended


def _authorities() -> ExtensionPolicy:
    """What the certificates above the signer's must be. Their own tools often leave the key usage out."""
    return (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _check_is_authority)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _check_may_certify)
        .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _check_certifies_for_code)
    )


def _check_is_authority(_: Policy, __: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("not an authority's")


def _check_may_certify(_: Policy, __: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("not for certificates")


def _check_certifies_for_code(_: Policy, __: x509.Certificate, extended: x509.ExtendedKeyUsage | None) -> None:
    if extended is not None and not _for_code(extended):
        raise ValueError("not for certificates of those who sign")


def _alternative_names(certificate: x509.Certificate) -> set[str]:
    names = _extension(certificate, x509.SubjectAlternativeName)
    if names is None:
        return set()
    kinds = {x509.RFC822Name: "email", x509.UniformResourceIdentifier: "URI", x509.DNSName: "DNS"}
    return {f"{kinds[type(name)]}:{name.value}" for name in names if type(name) in kinds}


def _extension(certificate: x509.Certificate, kind: type[_Extension]) -> _Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
