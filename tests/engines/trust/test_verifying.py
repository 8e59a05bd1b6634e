"""Who signed what: keys and certificates, and every way in which a signature does not hold."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import BundleError, InputError, PassPhraseNeeded, UntrustedBundle
from engines.trust import Role, SignedSet, Signer, verify
from engines.trust.certificates import Identity, TrustedRoots
from engines.trust.keys import TrustedKey
from engines.trust.signing import SigningKey
from tests.signers import (
    SOON,
    START,
    Owner,
    authority,
    certificate_file,
    key_file,
    new_key,
    public_file,
    usage,
)

ENCODING = serialization.Encoding.DER
FILES = {"manifest.json": b"{}", "weights.bin": b"w", "trunk.onnx": b"t", "trunk.fp16.onnx": b"h"}
DIGESTS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
OTHER = hashlib.sha256(b"other").hexdigest()
KEY = new_key()
SIGNATURE = SigningKey(KEY).signature("road", DIGESTS)
TRUSTED = TrustedKey("release.pub", KEY.public_key())


def signed(digests: dict[str, str] = DIGESTS, signature: bytes | None = SIGNATURE) -> SignedSet:
    return SignedSet(Role.BUNDLE, digests, signature, "road/model.sig")


def refused(message: str) -> object:
    return pytest.raises(UntrustedBundle, match=f"^{re.escape(f'road/model.sig {message}')}$")


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_what_a_key_signs_it_verifies(curve: ec.EllipticCurve, tmp_path: Path) -> None:
    key = new_key(curve)
    signature = SigningKey.open(key_file(tmp_path / "k.pem", key)).signature("road", DIGESTS)
    public = public_file(tmp_path / "k.pub", key)
    signer = verify(signed(signature=signature), [TrustedKey.open(public)])
    assert signer == Signer(str(public), hashlib.sha256(public.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("digests", "message"),
    [
        (
            DIGESTS | {"weights.bin": OTHER},
            "is not of these files; altered after signing: 'weights.bin'",
        ),
        (
            DIGESTS | {"trunk.onnx": DIGESTS["trunk.fp16.onnx"], "trunk.fp16.onnx": DIGESTS["trunk.onnx"]},
            "is not of these files; altered after signing: 'trunk.fp16.onnx', 'trunk.onnx'",
        ),
        (
            DIGESTS | {f"{number}.onnx": OTHER for number in range(5)},
            "is not of these files; added after signing: '0.onnx', '1.onnx', '2.onnx' and 2 more",
        ),
        (
            {name: digest for name, digest in DIGESTS.items() if name != "weights.bin"},
            "is not of these files; signed, but not in the bundle: 'weights.bin'",
        ),
        (
            DIGESTS | {"manifest.json": OTHER},
            "is not of this manifest.json: it was altered, or the signature is another bundle's",
        ),
    ],
    ids=["altered", "swapped", "added", "removed", "another bundle's"],
)
def test_other_files_are_refused(digests: dict[str, str], message: str) -> None:
    with refused(message):
        verify(signed(digests), [TRUSTED])


def test_another_key_is_refused() -> None:
    other = TrustedKey("other.pub", new_key().public_key())
    with refused("was made by another key than other.pub"):
        verify(signed(), [other])
    # The name of the key in the file is nobody's word.
    file = json.loads(SIGNATURE)
    del file["verificationMaterial"]["publicKey"]["hint"]
    with refused("does not hold: it was altered, or made by another key than other.pub"):
        verify(signed(signature=json.dumps(file).encode()), [other])
    assert verify(signed(signature=json.dumps(file).encode()), [other, TRUSTED]).name == "release.pub"
    with refused("was made by another key than other.pub; it was made by another key than third.pub"):
        verify(signed(), [other, TrustedKey("third.pub", new_key().public_key())])


def test_no_signature_is_refused() -> None:
    with pytest.raises(BundleError, match=r"^road/model\.sig is not there: the bundle is not signed$") as caught:
        verify(signed(signature=None), [TRUSTED])
    assert not isinstance(caught.value, UntrustedBundle)
    with refused("is of no use: the policy names nobody who may sign a bundle"):
        verify(signed(), [])


def test_a_set_without_a_manifest_is_none() -> None:
    with pytest.raises(ValueError, match=r"^a signed set has manifest\.json; received \['a'\]$"):
        SignedSet(Role.TARGET, {"a": OTHER}, SIGNATURE, "target.sig")


@settings(deadline=None)
@given(part=st.sampled_from(["payload", "sig"]), data=st.data())
def test_one_flipped_byte_of_the_payload_or_the_signature_is_refused(part: str, data: st.DataObject) -> None:
    file = json.loads(SIGNATURE)
    holder = file["dsseEnvelope"] if part == "payload" else file["dsseEnvelope"]["signatures"][0]
    content = bytearray(base64.b64decode(holder[part]))
    content[data.draw(st.integers(0, len(content) - 1), "place")] ^= data.draw(st.integers(1, 255), "bits")
    holder[part] = base64.b64encode(content).decode()
    with refused("does not hold: it was altered, or made by another key than release.pub"):
        verify(signed(signature=json.dumps(file).encode()), [TRUSTED])


@settings(deadline=None)
@given(place=st.integers(0, len(SIGNATURE) - 1), bits=st.integers(1, 255))
def test_one_flipped_byte_of_the_file_accepts_nothing_else(place: int, bits: int) -> None:
    content = bytearray(SIGNATURE)
    content[place] ^= bits
    altered = DIGESTS | {"weights.bin": OTHER}
    # The key's name in the file may be lost; what was signed stays what it was.
    with pytest.raises(BundleError, match=r"^road/model\.sig "):
        verify(signed(altered, bytes(content)), [TRUSTED])


class Hierarchy:
    """A root, an authority below it, and somebody whom that one certifies."""

    root = Owner.root()
    middle = Owner.of("Middle", root, [authority(0), usage("key_cert_sign")])
    leaf = Owner.leaf(middle)


def certified(leaf: Owner, *chain: Owner) -> SignedSet:
    key = SigningKey(leaf.key, (leaf.certificate, *(owner.certificate for owner in chain)))
    return signed(signature=key.signature("road", DIGESTS))


def roots(*owners: Owner, **identity: str) -> TrustedRoots:
    return TrustedRoots("roots.pem", tuple(owner.certificate for owner in owners), identity=Identity(**identity))


def test_a_certificate_leads_to_its_root() -> None:
    h = Hierarchy
    signer = verify(certified(h.leaf, h.middle, h.root), [roots(h.root)], SOON)
    assert (signer.name, signer.certificate) == ("roots.pem", "CN=Model release,O=Example")
    # The root need not come along, and what lies between may come with the roots.
    verify(certified(h.leaf, h.middle), [roots(h.root)], SOON)
    between = TrustedRoots("roots.pem", (h.root.certificate,), (h.middle.certificate,))
    verify(certified(h.leaf), [between], SOON)
    with refused("was made with the certificate of 'CN=Model release,O=Example', for which the roots of roots.pem do "
                 "not vouch"):  # fmt: skip
        verify(certified(h.leaf), [roots(h.root)], SOON)


def test_the_certificate_of_another_root_is_refused() -> None:
    h = Hierarchy
    with refused("was made with the certificate of 'CN=Model release,O=Example', for which the roots of roots.pem do "
                 "not vouch"):  # fmt: skip
        # Of the same name, with another key.
        verify(certified(h.leaf, h.middle, h.root), [roots(Owner.root())], SOON)


def test_an_expired_certificate_is_refused() -> None:
    h = Hierarchy
    late = START + timedelta(days=366)
    with refused("rests on the certificate of 'CN=Model release,O=Example', which expired on 2027-01-01"):
        verify(certified(h.leaf, h.middle), [roots(Owner.of("Root"), h.root)], late)
    with refused("rests on the certificate of 'CN=Model release,O=Example', which holds from 2026-01-01"):
        verify(certified(h.leaf, h.middle), [roots(h.root)], START - timedelta(days=1))
    old = Owner.root(end=START + timedelta(days=10))
    young = Owner.leaf(old, "Young")
    verify(certified(young), [roots(old)], START + timedelta(days=9))
    with refused("rests on the certificate of 'CN=Root,O=Example', which expired on 2026-01-11"):
        verify(certified(young), [roots(old)], START + timedelta(days=11))


NOT_FOR_SIGNATURES = (
    "was made with the certificate of 'CN=X,O=Example', which is not one for signatures: it needs the key usage "
    "digitalSignature or the extended usage codeSigning, no usage that lacks them, and must not be an authority's"
)
NO_WAY = "was made with the certificate of 'CN=X,O=Example', for which the roots of roots.pem do not vouch"
SIGNS = usage("digital_signature")
CODE_SIGNING = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        ([], NOT_FOR_SIGNATURES),
        ([usage("key_encipherment")], NOT_FOR_SIGNATURES),
        ([(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)], NOT_FOR_SIGNATURES),
        ([authority(), SIGNS], NOT_FOR_SIGNATURES),
        ([SIGNS, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b""), True)], NO_WAY),
        ([SIGNS], None),
        ([(CODE_SIGNING, False)], None),
        ([SIGNS, (CODE_SIGNING, True)], None),
        # What is there, restricts.
        ([SIGNS, (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), True)], NOT_FOR_SIGNATURES),
        ([usage("key_encipherment"), (CODE_SIGNING, False)], NOT_FOR_SIGNATURES),
    ],
)
def test_a_certificate_must_be_one_for_signatures(
    extensions: list[tuple[x509.ExtensionType, bool]], message: str | None
) -> None:
    leaf = Owner.of("X", Hierarchy.root, extensions)
    if message is None:
        verify(certified(leaf), [roots(Hierarchy.root)], SOON)
        return
    with refused(message):
        verify(certified(leaf), [roots(Hierarchy.root)], SOON)


@pytest.mark.parametrize(
    "extensions",
    [
        [],
        [(x509.BasicConstraints(ca=False, path_length=None), True)],
        [authority(), usage("crl_sign")],
        [authority(), (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)],
    ],
)
def test_who_is_no_authority_certifies_nobody(extensions: list[tuple[x509.ExtensionType, bool]]) -> None:
    middle = Owner.of("Middle", Hierarchy.root, extensions)
    with refused(NO_WAY):
        verify(certified(Owner.leaf(middle, "X"), middle), [roots(Hierarchy.root)], SOON)


def test_a_chain_is_no_longer_than_its_authority_allows() -> None:
    further = Owner.of("Further", Hierarchy.middle, [authority()])
    with refused(NO_WAY):
        verify(certified(Owner.leaf(further, "X"), further, Hierarchy.middle), [roots(Hierarchy.root)], SOON)


def test_the_chain_of_somebody_elses_certificate_proves_nothing() -> None:
    """The certificates are public: who has them, has not the key."""
    h = Hierarchy
    stolen = SigningKey(KEY, (h.leaf.certificate, h.middle.certificate)).signature("road", DIGESTS)
    with refused("does not hold: it was altered, or not made with the certificate of 'CN=Model release,O=Example'"):
        verify(signed(signature=stolen), [roots(h.root)], SOON)


def test_a_key_and_a_certificate_are_not_taken_for_one_another() -> None:
    h = Hierarchy
    with refused("was made with a plain key, not with a certificate"):
        verify(signed(), [roots(h.root)], SOON)
    with refused("was made with a certificate, not with a plain key"):
        verify(certified(h.leaf, h.middle), [TrustedKey("leaf.pub", h.leaf.key.public_key())], SOON)


@pytest.mark.parametrize("place", [0, 1])
def test_an_unreadable_certificate_is_refused(place: int, tmp_path: Path) -> None:
    h = Hierarchy
    right = (h.leaf, h.middle)[place].certificate.public_bytes(ENCODING)
    # X.509 has the versions 1 to 3, which are written as 0 to 2.
    versioned = right.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1)
    assert versioned != right
    serial = (h.leaf, h.middle)[place].certificate.serial_number
    number = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    # Below zero, of which the parser warns.
    negative = right.replace(number, b"\xff" + number[1:], 1)
    assert negative != right
    for content in (b"\0\0\0", versioned, negative):
        file = json.loads(certified(h.leaf, h.middle).signature or b"")
        held = file["verificationMaterial"]["x509CertificateChain"]["certificates"]
        held[place]["rawBytes"] = base64.b64encode(content).decode()
        with refused("has a certificate that cannot be read"):
            verify(signed(signature=json.dumps(file).encode()), [roots(h.root)], SOON)
    path = tmp_path / "wrong.crt"
    pem = base64.encodebytes(versioned)
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\n" + pem + b"-----END CERTIFICATE-----\n")
    with pytest.raises(InputError, match=r"wrong\.crt cannot be used: it holds no certificate in PEM, or one that"):
        TrustedRoots.open([path])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to compare with")
@pytest.mark.parametrize(
    "attributes",
    [
        [(NameOID.ORGANIZATION_NAME, "Müller & Söhne"), (NameOID.COMMON_NAME, "Freigabe")],
        [(NameOID.COMMON_NAME, "Release"), (NameOID.EMAIL_ADDRESS, "release@example.com")],
        [(NameOID.SERIAL_NUMBER, "42"), (NameOID.COMMON_NAME, 'a, "b" + <c>; \\ = d')],
        [(NameOID.COUNTRY_NAME, "DE"), (NameOID.STREET_ADDRESS, "#1 Road"), (NameOID.COMMON_NAME, " spaced ")],
        [(NameOID.GIVEN_NAME, "A"), (NameOID.SURNAME, "B"), (NameOID.TITLE, "C"), (NameOID.USER_ID, "u"),
         (NameOID.DOMAIN_COMPONENT, "example")],
        [(NameOID.ORGANIZATION_IDENTIFIER, "VATDE-1"), (NameOID.POSTAL_CODE, "1"), (NameOID.COMMON_NAME, "名前")],
    ],
)  # fmt: skip
def test_a_subject_is_named_as_openssl_shows_it(attributes: list[tuple[x509.ObjectIdentifier, str]]) -> None:
    name = x509.Name([x509.NameAttribute(kind, value) for kind, value in attributes])
    other = x509.Name([*name, x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Other")])
    certificates = [
        x509.CertificateBuilder(
            name, subject, KEY.public_key(), 1, START, START + timedelta(days=365)
        ).sign(KEY, hashes.SHA256())
        for subject in (name, other)
    ]  # fmt: skip
    command = ["openssl", "x509", "-noout", "-subject", "-nameopt", "RFC2253"]
    pem = certificates[0].public_bytes(serialization.Encoding.PEM)
    shown = subprocess.run(command, input=pem, capture_output=True, check=True).stdout.decode()
    spelled = shown.removesuffix("\n").removeprefix("subject=")
    for text in (spelled, name.rfc4514_string()):
        assert [Identity(subject=text).fits(certificate) for certificate in certificates] == [True, False]


def test_what_is_no_subject_is_refused() -> None:
    for text in ("Release", "XX=Release", "CN=a,", "1.2.3.4=#0C0161", "CN=\\zz"):
        with pytest.raises(InputError, match=rf"^{re.escape(repr(text))} is no subject of a certificate \(RFC 4514\)$"):
            Identity(subject=text)


def test_an_identity_is_the_one_that_is_meant() -> None:
    names = x509.SubjectAlternativeName(
        [x509.RFC822Name("release@example.com"), x509.UniformResourceIdentifier("https://example.com/x")]
    )
    leaf = Owner.of("Release", Hierarchy.root, [SIGNS, (names, False)])
    for identity in (
        {"subject": "CN=Release,O=Example"},
        {"alternative_name": "email:release@example.com"},
        {"alternative_name": "URI:https://example.com/x"},
        {"sha256": hashlib.sha256(leaf.certificate.public_bytes(ENCODING)).hexdigest()},
    ):
        verify(certified(leaf), [roots(Hierarchy.root, **identity)], SOON)
    for identity in (
        {"subject": "CN=Other,O=Example"},
        {"subject": "CN=Release,O=Example", "alternative_name": "DNS:example.com"},
        {"alternative_name": "URI:release@example.com"},
        {"sha256": "0" * 64},
    ):
        with refused("was made with the certificate of 'CN=Release,O=Example', who is not roots.pem"):
            verify(certified(leaf), [roots(Hierarchy.root, **identity)], SOON)


def test_keys_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    key = new_key()
    path = key_file(tmp_path / "k.pem", key, b"open sesame")
    assert SigningKey.open(path, "open sesame").key.private_numbers() == key.private_numbers()
    with pytest.raises(PassPhraseNeeded, match=r"k\.pem is encrypted: give pass_phrase=$"):
        SigningKey.open(path)
    with pytest.raises(InputError, match=r"k\.pem cannot be used: the pass phrase is wrong, or the file is damaged$"):
        SigningKey.open(path, "open barley")
    # A pass phrase in the environment does no harm to a key without one.
    SigningKey.open(key_file(tmp_path / "plain.pem", key), "open sesame")
    weak = new_key(ec.SECP256K1())
    for opened, file in (
        (SigningKey.open, key_file(tmp_path / "weak.pem", weak)),
        (TrustedKey.open, public_file(tmp_path / "weak.pub", weak)),
    ):
        with pytest.raises(InputError, match=r"weak\.\w+ cannot be used: a key of P-256, P-384 or P-521 is needed$"):
            opened(file)
    public = public_file(tmp_path / "k.pub", key)
    with pytest.raises(InputError, match=r"k\.pub cannot be used: it is no private key in PEM$"):
        SigningKey.open(public)
    with pytest.raises(InputError, match=r"k\.pem cannot be used: it is no public key in PEM$"):
        TrustedKey.open(path)
    sha256 = hashlib.sha256(public.read_bytes()).hexdigest()
    TrustedKey.open(public, sha256=sha256)
    with pytest.raises(InputError, match=rf"k\.pub is another key: its SHA-256 is {sha256}, not {'0' * 64}$"):
        TrustedKey.open(public, sha256="0" * 64)


@pytest.mark.parametrize(
    ("extensions", "now", "reason"),
    [
        ([], SOON, f"is {NOT_FOR_SIGNATURES.partition('which is ')[2]}"),
        ([SIGNS], START + timedelta(days=366), "cannot be used: it expired on 2027-01-01"),
        ([SIGNS], START - timedelta(days=1), "cannot be used: it holds from 2026-01-01"),
    ],
)
def test_nothing_is_signed_with_a_certificate_that_nobody_may_take(
    extensions: list[tuple[x509.ExtensionType, bool]], now: datetime, reason: str, tmp_path: Path
) -> None:
    h = Hierarchy
    owner = Owner.of("X", h.middle, extensions)
    path = certificate_file(tmp_path / "x.crt", owner)
    with pytest.raises(InputError, match=f"^{re.escape(f'{path} {reason}')}$"):
        SigningKey(owner.key).certified(path, (certificate_file(tmp_path / "root.crt", h.root),), now)


def test_nothing_is_signed_with_certificates_that_do_not_lead_to_their_root(tmp_path: Path) -> None:
    h = Hierarchy
    leaf, middle, root = (
        certificate_file(tmp_path / f"{name}.crt", owner)
        for name, owner in (("leaf", h.leaf), ("middle", h.middle), ("root", h.root))
    )
    signing = SigningKey(h.leaf.key)
    # Whoever verifies may have those above; what comes along must lead upwards.
    for chain in ((), (middle,), (middle, root)):
        signing.certified(leaf, chain, SOON)
    other = certificate_file(tmp_path / "other.crt", Owner.root())
    message = f"^{re.escape(f'{leaf} does not lead to a root through the others, all of them valid today')}$"
    for chain in ((root,), (other,), (middle, other)):
        with pytest.raises(InputError, match=message):
            signing.certified(leaf, chain, SOON)


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    h = Hierarchy
    leaf, root = certificate_file(tmp_path / "leaf.crt", h.leaf), certificate_file(tmp_path / "root.crt", h.root)
    middle = certificate_file(tmp_path / "middle.crt", h.middle)
    signing = SigningKey(h.leaf.key).certified(leaf, (middle, root), SOON)
    held = TrustedRoots.open([root])
    assert verify(signed(signature=signing.signature("road", DIGESTS)), [held], SOON).name == str(root)
    with pytest.raises(InputError, match=r"leaf\.crt is the certificate of another key$"):
        SigningKey(KEY).certified(leaf, ())
    with pytest.raises(InputError, match=r"^a signature carries up to 8 certificates; received 9$"):
        SigningKey(h.leaf.key).certified(leaf, (middle,) * 8)
    empty = tmp_path / "empty.crt"
    empty.write_text("")
    with pytest.raises(InputError, match=r"empty\.crt cannot be used: it holds no certificate in PEM, or one that"):
        TrustedRoots.open([empty])
    for path in (middle, leaf, certificate_file(tmp_path / "self.crt", Owner.of("Self"))):
        message = f"^{re.escape(str(path))}: none of these is the self-signed certificate of an authority$"
        with pytest.raises(InputError, match=message):
            TrustedRoots.open([path])
