"""Statements and envelopes: what they say, and what is refused in them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from engines.errors import BundleError
from engines.trust.envelopes import Envelope, envelope_from_json, json_from_envelope, message_of
from engines.trust.statements import digests_from_statement, statement_from_digests

FIRST, SECOND = (hashlib.sha256(text).hexdigest() for text in (b"1", b"2"))
DIGESTS = {"manifest.json": FIRST, "reference/a.npy": SECOND}


def test_a_statement_names_every_file_in_the_order_of_its_parts() -> None:
    names = ("reference.txt", "reference/b.npy", "a-b/c", "a/b", "manifest.json")
    statement = json.loads(statement_from_digests("road", dict.fromkeys(names, FIRST)))
    listed = [resource["name"] for resource in statement["predicate"]["resources"]]
    assert listed == ["a/b", "a-b/c", "manifest.json", "reference/b.npy", "reference.txt"]


def test_the_subject_is_the_sum_of_the_files() -> None:
    statement = json.loads(statement_from_digests("road", DIGESTS))
    total = hashlib.sha256(bytes.fromhex(FIRST) + bytes.fromhex(SECOND)).hexdigest()
    assert statement["subject"] == [{"name": "road", "digest": {"sha256": total}}]
    assert statement["predicate"]["serialization"]["ignore_paths"] == [
        ".git", ".gitattributes", ".github", ".gitignore", "engines", "model.sig", "reports", "target.json",
        "target.sig",
    ]  # fmt: skip


def test_no_path_is_left_out_that_holds_a_file() -> None:
    statement = json.loads(statement_from_digests("road", {**DIGESTS, "engines/a.engine": FIRST, "target.json": FIRST}))
    left_out = statement["predicate"]["serialization"]["ignore_paths"]
    assert "engines" not in left_out
    assert "target.json" not in left_out
    assert "reports" in left_out


def test_what_is_written_is_read() -> None:
    assert digests_from_statement(statement_from_digests("road", DIGESTS), "s") == DIGESTS
    for envelope in (
        Envelope(b"payload", b"signature", "0" * 64),
        Envelope(b"payload", b"signature", None, (b"own", b"root")),
    ):
        assert envelope_from_json(json_from_envelope(envelope), "s") == envelope


def test_the_message_is_dsse() -> None:
    assert message_of(b'{"a":1}') == b'DSSEv1 28 application/vnd.in-toto+json 7 {"a":1}'


def resources(statement: Any) -> Any:
    return statement["predicate"]["resources"]


def set_name(name: str) -> Callable[[Any], None]:
    return lambda statement: resources(statement)[0].update(name=name)


def left_out(path: str) -> Callable[[Any], None]:
    return lambda statement: statement["predicate"]["serialization"]["ignore_paths"].append(path)


def serialized(**values: object) -> Callable[[Any], None]:
    return lambda statement: statement["predicate"]["serialization"].update(values)


STATEMENTS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a statement of another type": (
        lambda s: s.update(_type="https://in-toto.io/Statement/v0.1"),
        "s holds a statement of the type 'https://in-toto.io/Statement/v0.1', not 'https://in-toto.io/Statement/v1'",
    ),
    "another predicate": (
        lambda s: s.update(predicateType="https://slsa.dev/provenance/v1"),
        "s signs a predicate of the type 'https://slsa.dev/provenance/v1', not 'https://model_signing/signature/v1.0'",
    ),
    "two subjects": (
        lambda s: s["subject"].append(s["subject"][0]),
        "s cannot be used: Expected `array` of length <= 1 - at `$.subject`",
    ),
    "an unknown field": (
        lambda s: s["predicate"].update(parameters={}),
        "s cannot be used: Object contains unknown field `parameters` - at `$.predicate`",
    ),
    "no files": (
        lambda s: resources(s).clear(),
        "s cannot be used: Expected `array` of length >= 1 - at `$.predicate.resources`",
    ),
    "upper case": (
        lambda s: resources(s)[0].update(digest=FIRST.upper()),
        "s cannot be used: Expected `str` matching regex '\\\\A[0-9a-f]{64}\\\\Z' - at "
        "`$.predicate.resources[0].digest`",
    ),
    "another hash": (
        lambda s: resources(s)[0].update(algorithm="blake3"),
        "s cannot be used: Invalid enum value 'blake3' - at `$.predicate.resources[0].algorithm`",
    ),
    "shards": (
        serialized(method="shards"),
        "s cannot be used: Invalid enum value 'shards' - at `$.predicate.serialization.method`",
    ),
    "links": (
        serialized(allow_symlinks=True),
        "s cannot be used: Invalid enum value True - at `$.predicate.serialization.allow_symlinks`",
    ),
    "a file twice": (
        lambda s: resources(s).append(resources(s)[0]),
        "s signs 'manifest.json' twice",
    ),
    "the sum of other files": (
        lambda s: resources(s).reverse(),
        "s has a subject whose SHA-256 is not that of its files",
    ),
    "a hidden file": (left_out("weights.bin"), "s leaves out 'weights.bin', where files could be altered unseen"),
    "all hidden": (left_out("."), "s leaves out '.', where files could be altered unseen"),
    **{
        f"the name {name!r}": (set_name(name), f"s signs {name!r}, which is no name of a file in a bundle")
        for name in ("./manifest.json", "a//b", "a/", "/a", "a/../b", "..", ".", "", "a\\b", "a\0b")
    },
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), STATEMENTS.values(), ids=STATEMENTS)
def test_a_statement_that_could_mean_something_else_is_refused(change: Callable[[Any], None], message: str) -> None:
    statement = json.loads(statement_from_digests("road", DIGESTS))
    change(statement)
    with pytest.raises(BundleError, match=f"^{re.escape(message)}$"):
        digests_from_statement(json.dumps(statement).encode(), "s")


def test_a_key_that_is_there_twice_is_refused() -> None:
    statement = statement_from_digests("road", DIGESTS).decode()
    twice = statement.replace('"resources":', '"resources":[],"resources":')
    with pytest.raises(BundleError, match=r"^s cannot be used: it is not JSON: the key 'resources' stands twice$"):
        digests_from_statement(twice.encode(), "s")
    whole = json_from_envelope(Envelope(b"payload", b"signature")).decode()
    twice = whole.replace('"payload":', '"payload":"","payload":')
    with pytest.raises(BundleError, match=r"^s cannot be used: it is not JSON: the key 'payload' stands twice$"):
        envelope_from_json(twice.encode(), "s")


def sign_twice(file: Any) -> None:
    signatures = file["dsseEnvelope"]["signatures"]
    signatures.append(signatures[0])


MATERIAL = "verificationMaterial"

ENVELOPES: dict[str, tuple[Callable[[Any], object], str]] = {
    "another media type": (
        lambda f: f.update(mediaType="application/vnd.dev.sigstore.bundle.v0.2+json"),
        "s is of the type 'application/vnd.dev.sigstore.bundle.v0.2+json', not "
        "'application/vnd.dev.sigstore.bundle.v0.3+json'",
    ),
    "another payload type": (
        lambda f: f["dsseEnvelope"].update(payloadType="text/plain"),
        "s signs a payload of the type 'text/plain', not 'application/vnd.in-toto+json'",
    ),
    "two signatures": (sign_twice, "s has 2 signatures, where one is expected"),
    "no signature": (
        lambda f: f["dsseEnvelope"].update(signatures=[]),
        "s has 0 signatures, where one is expected",
    ),
    "an unknown field": (
        lambda f: f.update(messageSignature={}),
        "s cannot be used: Object contains unknown field `messageSignature`",
    ),
    "an entry of a log": (
        lambda f: f[MATERIAL].update(tlogEntries=[{}]),
        "s cannot be used: Expected `array` of length <= 0 - at `$.verificationMaterial.tlogEntries`",
    ),
    "neither key nor certificates": (
        lambda f: f[MATERIAL].pop("publicKey"),
        "s names neither a key nor certificates, or both",
    ),
    "both": (
        lambda f: f[MATERIAL].update(x509CertificateChain={"certificates": [{"rawBytes": ""}]}),
        "s names neither a key nor certificates, or both",
    ),
    "too many certificates": (
        lambda f: f[MATERIAL].update(x509CertificateChain={"certificates": [{"rawBytes": ""}] * 9}),
        "s cannot be used: Expected `array` of length <= 8 - at "
        "`$.verificationMaterial.x509CertificateChain.certificates`",
    ),
    "no base64": (
        lambda f: f["dsseEnvelope"].update(payload="a b="),
        "s cannot be used: it holds text that is not base64",
    ),
    "bits that nobody reads": (
        lambda f: f["dsseEnvelope"].update(payload="QR=="),
        "s cannot be used: it holds text that is not base64",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), ENVELOPES.values(), ids=ENVELOPES)
def test_an_envelope_that_could_mean_something_else_is_refused(change: Callable[[Any], object], message: str) -> None:
    file = json.loads(json_from_envelope(Envelope(b"payload", b"signature", "0" * 64)))
    change(file)
    with pytest.raises(BundleError, match=f"^{re.escape(message)}$"):
        envelope_from_json(json.dumps(file).encode(), "s")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b'{"mediaType": NaN}', "NaN is no number of JSON"),
        (b"[" * 100_000, "lists and objects are nested more than 64 deep"),
        (b"1" * 5000, "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; "
         "use sys.set_int_max_str_digits() to increase the limit"),
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(BundleError, match=f"^s cannot be used: it is not JSON: {re.escape(reason)}"):
        envelope_from_json(content, "s")


def test_the_payload_is_taken_as_it_was_received() -> None:
    payload = b'{ "a" : 1 }'
    file = json.loads(json_from_envelope(Envelope(payload, b"signature")))
    assert base64.b64decode(file["dsseEnvelope"]["payload"]) == payload
