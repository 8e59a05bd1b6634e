"""Public keys of P-256, P-384 and P-521, each with the hash of its length. Imports ``cryptography``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PublicKeyTypes

from engines.bundle.gate import read_file
from engines.errors import InputError, UntrustedBundle
from engines.trust.authorities import Signer
from engines.trust.envelopes import Envelope

HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
"""By the name of the curve."""

MOST_BYTES = 1 << 16
"""Of a file with a key, or with certificates."""


@dataclass(frozen=True)
class TrustedKey:
    """A public key whose signatures are taken."""

    name: str
    key: ec.EllipticCurvePublicKey

    @classmethod
    def open(cls, path: Path, name: str | None = None, sha256: str | None = None) -> TrustedKey:
        """Read a key in PEM, which must have this SHA-256 where one is given. Raises :class:`InputError`."""
        try:
            key = serialization.load_pem_public_key(read_file(path, MOST_BYTES))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InputError(f"{path} cannot be used: it is no public key in PEM") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in HASHES:
            raise InputError(f"{path} cannot be used: a key of P-256, P-384 or P-521 is needed")
        found = key_sha256(key)
        if sha256 not in (None, found):
            raise InputError(f"{path} is another key: its SHA-256 is {found}, not {sha256}")
        return cls(str(path) if name is None else name, key)

    def signer(self, envelope: Envelope, now: datetime) -> Signer:
        """See :class:`engines.trust.authorities.Authority`; a key knows no time."""
        if envelope.certificates:
            raise UntrustedBundle("was made with a certificate, not with a plain key")
        own = key_sha256(self.key)
        # The file's word for its key is not proven, so it serves for a better message only.
        if envelope.key_sha256 and envelope.key_sha256 != own:
            raise UntrustedBundle(f"was made by another key than {self.name}")
        if not verifies(self.key, envelope):
            raise UntrustedBundle(f"does not hold: it was altered, or made by another key than {self.name}")
        return Signer(self.name, own)


def verifies(key: PublicKeyTypes, envelope: Envelope) -> bool:
    """Whether the holder of the private key made the signature."""
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in HASHES:
        return False
    try:
        key.verify(envelope.signature, envelope.message, ec.ECDSA(HASHES[key.curve.name]()))
    except InvalidSignature:
        return False
    return True


def key_sha256(key: CertificatePublicKeyTypes) -> str:
    """SHA-256 of a public key's PEM text, in hexadecimal."""
    pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(pem).hexdigest()
