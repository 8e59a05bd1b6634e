"""How a signature lies in a file: a Sigstore bundle, version 0.3, with one DSSE envelope.

What is signed is not the payload but ``DSSEv1 LENGTH TYPE LENGTH PAYLOAD``, so that no payload of one type is taken for
one of another.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec

from engines.errors import BundleError
from engines.trust.documents import document_from_json
from engines.trust.statements import PAYLOAD_TYPE

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"

MOST_BYTES = 4 << 20
"""Of a signature file: about 20,000 files."""

MOST_CERTIFICATES = 8


@dataclass(frozen=True)
class Envelope:
    """A payload and its one signature, as they were received."""

    payload: bytes
    signature: bytes
    key_sha256: str | None = None
    """What the file says of the key that made it; nothing proves it."""
    certificates: tuple[bytes, ...] = ()
    """DER, the signer's first; none where a plain key signed."""

    @property
    def message(self) -> bytes:
        """What the signature is of."""
        return message_of(self.payload)


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Every part of a file."""


class _PublicKey(_Part, frozen=True):
    hint: str | None = None


class _Certificate(_Part, frozen=True):
    raw_bytes: str


class _Chain(_Part, frozen=True):
    certificates: Annotated[list[_Certificate], msgspec.Meta(min_length=1, max_length=MOST_CERTIFICATES)]


class _Material(_Part, frozen=True, omit_defaults=True):
    tlog_entries: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=0)]
    public_key: _PublicKey | None = None
    certificate_chain: _Chain | None = msgspec.field(name="x509CertificateChain", default=None)


class _Signature(_Part, frozen=True):
    sig: str
    keyid: str = ""


class _Dsse(_Part, frozen=True):
    payload: str
    payload_type: str
    signatures: list[_Signature]


class _File(_Part, frozen=True):
    media_type: str
    verification_material: _Material
    dsse_envelope: _Dsse


class _MediaType(msgspec.Struct, rename="camel"):
    """What is looked at first."""

    media_type: str


def message_of(payload: bytes) -> bytes:
    """DSSE's encoding before the signature of a payload of the type :data:`PAYLOAD_TYPE`."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)


def json_from_envelope(envelope: Envelope) -> bytes:
    """The file of a signature."""
    if envelope.certificates:
        chain = [_Certificate(raw_bytes=_text(certificate)) for certificate in envelope.certificates]
        material = _Material(certificate_chain=_Chain(certificates=chain), tlog_entries=[])
    else:
        material = _Material(public_key=_PublicKey(hint=envelope.key_sha256), tlog_entries=[])
    dsse = _Dsse(
        payload=_text(envelope.payload),
        payload_type=PAYLOAD_TYPE,
        signatures=[_Signature(sig=_text(envelope.signature))],
    )
    return msgspec.json.encode(_File(media_type=MEDIA_TYPE, verification_material=material, dsse_envelope=dsse))


def envelope_from_json(content: bytes, where: str) -> Envelope:
    """Read a signature file; nothing in it is proven yet. Raises :class:`BundleError`, which names ``where``."""
    kind = document_from_json(content, _MediaType, where).media_type
    if kind != MEDIA_TYPE:
        raise BundleError(f"{where} is of the type {kind!r}, not {MEDIA_TYPE!r}")
    found = document_from_json(content, _File, where)
    material, dsse = found.verification_material, found.dsse_envelope
    if dsse.payload_type != PAYLOAD_TYPE:
        raise BundleError(f"{where} signs a payload of the type {dsse.payload_type!r}, not {PAYLOAD_TYPE!r}")
    if len(dsse.signatures) != 1:
        raise BundleError(f"{where} has {len(dsse.signatures)} signatures, where one is expected")
    if (material.public_key is None) == (material.certificate_chain is None):
        raise BundleError(f"{where} names neither a key nor certificates, or both")
    chain: Sequence[_Certificate] = material.certificate_chain.certificates if material.certificate_chain else ()
    return Envelope(
        payload=_bytes(dsse.payload, where),
        signature=_bytes(dsse.signatures[0].sig, where),
        key_sha256=material.public_key.hint if material.public_key else None,
        certificates=tuple(_bytes(certificate.raw_bytes, where) for certificate in chain),
    )


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _bytes(text: str, where: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BundleError(f"{where} cannot be used: it holds text that is not base64") from error
    # The last digit may carry bits that decoders drop: another text would be the same content.
    if _text(content) != text:
        raise BundleError(f"{where} cannot be used: it holds text that is not base64")
    return content
