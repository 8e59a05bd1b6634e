"""Keys and certificates of tests, made when they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

START = datetime(2026, 1, 1, tzinfo=timezone.utc)
"""From when the certificates hold, for a year."""

SOON = START + timedelta(days=1)

USAGES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
          "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip


def new_key(curve: ec.EllipticCurve | None = None) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(curve or ec.SECP256R1())


def key_file(path: Path, key: Any, pass_phrase: bytes | None = None) -> Path:
    """A private key in PEM."""
    encryption = serialization.BestAvailableEncryption(pass_phrase) if pass_phrase else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return path


def public_file(path: Path, key: Any) -> Path:
    """Its public key in PEM."""
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.write_bytes(pem)
    return path


def usage(*allowed: str) -> tuple[x509.KeyUsage, bool]:
    return x509.KeyUsage(**{name: name in allowed for name in USAGES}), True


def authority(path_length: int | None = None) -> tuple[x509.BasicConstraints, bool]:
    return x509.BasicConstraints(ca=True, path_length=path_length), True


@dataclass(frozen=True)
class Owner:
    """A key with its certificate."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def of(
        cls,
        common_name: str,
        issuer: Owner | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        *,
        start: datetime = START,
        end: datetime = START + timedelta(days=365),
    ) -> Owner:
        """Certified by ``issuer``, or by themselves."""
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            ]
        )
        key = new_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer.name if issuer else name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return cls(name, key, builder.sign(issuer.key if issuer else key, hashes.SHA256()))

    @classmethod
    def root(cls, common_name: str = "Root", **times: datetime) -> Owner:
        return cls.of(common_name, None, [authority()], **times)

    @classmethod
    def leaf(cls, issuer: Owner, common_name: str = "Model release", **times: datetime) -> Owner:
        return cls.of(common_name, issuer, [usage("digital_signature")], **times)


def certificate_file(path: Path, *owners: Owner) -> Path:
    path.write_bytes(b"".join(owner.certificate.public_bytes(serialization.Encoding.PEM) for owner in owners))
    return path
