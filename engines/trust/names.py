"""Names of people and organisations in certificates, as text (RFC 4514). Imports ``cryptography``."""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.x509.oid import NameOID

from engines.errors import InputError

_ATTRIBUTES = {
    "GN": NameOID.GIVEN_NAME,
    "SN": NameOID.SURNAME,
    "businessCategory": NameOID.BUSINESS_CATEGORY,
    "dnQualifier": NameOID.DN_QUALIFIER,
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "generationQualifier": NameOID.GENERATION_QUALIFIER,
    "initials": NameOID.INITIALS,
    "organizationIdentifier": NameOID.ORGANIZATION_IDENTIFIER,
    "postalCode": NameOID.POSTAL_CODE,
    "pseudonym": NameOID.PSEUDONYM,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "street": NameOID.STREET_ADDRESS,
    "title": NameOID.TITLE,
}
"""What OpenSSL calls the attributes for which RFC 4514 has no name; ``cryptography`` shows them by their numbers."""

_DUMPED = re.compile(r"(?<!\\)=#")


def name_from_text(text: str) -> x509.Name:
    """A name: ``"CN=Model release,O=Example"``, the most particular attribute first.

    It may be spelled as messages here show it, as ``openssl x509 -noout -subject -nameopt RFC2253`` does, with the
    bytes of UTF-8 in hexadecimal (``M\\C3\\BCller``), or with its characters. Names compare by attributes and values,
    whatever types of strings a certificate has them in. Raises :class:`InputError`.
    """
    try:
        if _DUMPED.search(text):
            raise ValueError("a value in hexadecimal")
        return x509.Name.from_rfc4514_string(text, _ATTRIBUTES)
    except ValueError as error:
        raise InputError(f"{text!r} is no subject of a certificate (RFC 4514)") from error
