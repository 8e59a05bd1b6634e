"""Private keys, and the signatures that they make. Imports ``cryptography``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from engines.bundle.gate import read_file
from engines.errors import InputError, PassPhraseNeeded, UntrustedBundle
from engines.trust.certificates import certificates_from_pem, check_certificates
from engines.trust.envelopes import MOST_CERTIFICATES, Envelope, json_from_envelope, message_of
from engines.trust.keys import HASHES, MOST_BYTES, key_sha256, verifies
from engines.trust.statements import statement_from_digests


@dataclass(frozen=True)
class SigningKey:
    """A private key, with the certificates that name its owner where there are some."""

    key: ec.EllipticCurvePrivateKey
    certificates: tuple[x509.Certificate, ...] = ()
    """The owner's first."""

    @classmethod
    def open(cls, path: Path, pass_phrase: str | None = None) -> SigningKey:
        """Read a key in PEM.

        Raises :class:`PassPhraseNeeded` and :class:`InputError`, which name the file.
        """
        pem = read_file(path, MOST_BYTES)
        encrypted = b"ENCRYPTED" in pem
        if encrypted and pass_phrase is None:
            raise PassPhraseNeeded(f"{path} is encrypted: give pass_phrase=")
        try:
            key = serialization.load_pem_private_key(pem, (pass_phrase or "").encode() if encrypted else None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            reason = "the pass phrase is wrong, or the file is damaged" if encrypted else "it is no private key in PEM"
            raise InputError(f"{path} cannot be used: {reason}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in HASHES:
            raise InputError(f"{path} cannot be used: a key of P-256, P-384 or P-521 is needed")
        return cls(key)

    def certified(self, certificate: Path, chain: tuple[Path, ...], now: datetime | None = None) -> SigningKey:
        """The key with its owner's certificate and those that lead from it to a root.

        They must be such that a signature can be taken ``now``, by default today. Raises :class:`InputError` where they
        are not, for the certificate of another key, and for more certificates than are read again.
        """
        (own, *others) = certificates_from_pem(certificate)
        if key_sha256(own.public_key()) != key_sha256(self.key.public_key()):
            raise InputError(f"{certificate} is the certificate of another key")
        certificates = (own, *others, *(found for path in chain for found in certificates_from_pem(path)))
        if len(certificates) > MOST_CERTIFICATES:
            raise InputError(
                f"a signature carries up to {MOST_CERTIFICATES} certificates; received {len(certificates)}"
            )
        try:
            check_certificates(own, [*certificates[1:]], now or datetime.now(timezone.utc))
        except UntrustedBundle as error:
            raise InputError(f"{certificate} {error}") from error
        return SigningKey(self.key, certificates)

    def made(self, envelope: Envelope) -> bool:
        """Whether this key made the signature of an envelope, with whatever certificates."""
        return verifies(self.key.public_key(), envelope)

    def signature(self, name: str, digests: Mapping[str, str]) -> bytes:
        """The signature file of the files ``{name: SHA-256}`` of a bundle with this name."""
        return self.sealed(statement_from_digests(name, digests))

    def sealed(self, payload: bytes) -> bytes:
        """An in-toto statement with its signature: a DSSE envelope in a Sigstore bundle, as JSON."""
        public = self.key.public_key()
        return json_from_envelope(
            Envelope(
                payload=payload,
                signature=self.key.sign(message_of(payload), ec.ECDSA(HASHES[self.key.curve.name]())),
                key_sha256=key_sha256(public),
                certificates=tuple(held.public_bytes(serialization.Encoding.DER) for held in self.certificates),
            )
        )
