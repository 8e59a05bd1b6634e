"""What is signed: an in-toto statement that lists files by name and SHA-256, as ``model_signing`` 1.x writes it.

Its subject is ``sha256(digest_1 || ... || digest_n)`` over the raw digests of the files, in the order of the list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, TypeAlias

import msgspec

from engines.bundle.gate import parts_of
from engines.errors import BundleError
from engines.trust.documents import document_from_json

PAYLOAD_TYPE = "application/vnd.in-toto+json"

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"

PREDICATE_TYPE = "https://model_signing/signature/v1.0"

GIT_PATHS = (".git", ".gitattributes", ".github", ".gitignore")
"""What ``model_signing`` leaves out, unless it is told otherwise."""

ADDED_PATHS = ("engines", "model.sig", "reports", "target.json", "target.sig")
"""What comes into a bundle after it was signed: the signatures, and what is made on a target."""

_Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every part of a statement: without fields that the format does not name, which could change its meaning."""


class _Digest(_Part, frozen=True):
    sha256: _Sha256


class _Subject(_Part, frozen=True):
    name: str
    digest: _Digest


class _Serialization(_Part, frozen=True):
    method: Literal["files"]
    hash_type: Literal["sha256"]
    allow_symlinks: Literal[False]
    ignore_paths: list[str] = []


class _Resource(_Part, frozen=True):
    name: str
    algorithm: Literal["sha256"]
    digest: _Sha256


class _Predicate(_Part, frozen=True):
    serialization: _Serialization
    resources: Annotated[list[_Resource], msgspec.Meta(min_length=1)]


class _Statement(_Part, frozen=True):
    kind: str = msgspec.field(name="_type")
    subject: Annotated[list[_Subject], msgspec.Meta(min_length=1, max_length=1)]
    predicate_type: str = msgspec.field(name="predicateType")
    predicate: _Predicate


class _Kinds(msgspec.Struct):
    """What is looked at first: statements of other types have other fields."""

    kind: str = msgspec.field(name="_type")
    predicate_type: str = msgspec.field(name="predicateType")


def statement_from_digests(name: str, digests: Mapping[str, str]) -> bytes:
    """The statement that signs these files, ``{name: SHA-256 in hexadecimal}``, of a bundle with this name.

    It leaves out what comes into a bundle later, so that ``model_signing`` verifies the folder then, too.
    """
    # By the parts of the paths, as model_signing sorts them: a/b comes before a.b.
    ordered = sorted(digests, key=parts_of)
    ignored = [path for path in (*GIT_PATHS, *ADDED_PATHS) if not any(_holds(path, name) for name in ordered)]
    statement = _Statement(
        kind=STATEMENT_TYPE,
        subject=[_Subject(name=name, digest=_Digest(sha256=_root(digests[name] for name in ordered)))],
        predicate_type=PREDICATE_TYPE,
        predicate=_Predicate(
            serialization=_Serialization(
                method="files", hash_type="sha256", allow_symlinks=False, ignore_paths=sorted(ignored)
            ),
            resources=[_Resource(name=name, algorithm="sha256", digest=digests[name]) for name in ordered],
        ),
    )
    return msgspec.json.encode(statement)


def digests_from_statement(payload: bytes, where: str) -> dict[str, str]:
    """The files that a statement signs. Raises :class:`BundleError`, which names ``where``.

    Nothing is taken from a statement that could be read in two ways: paths that leave the bundle or have several
    spellings, files that are named twice, links, and paths left out under which other files could hide.
    """
    kinds = document_from_json(payload, _Kinds, where)
    if kinds.kind != STATEMENT_TYPE:
        raise BundleError(f"{where} holds a statement of the type {kinds.kind!r}, not {STATEMENT_TYPE!r}")
    if kinds.predicate_type != PREDICATE_TYPE:
        raise BundleError(f"{where} signs a predicate of the type {kinds.predicate_type!r}, not {PREDICATE_TYPE!r}")
    statement = document_from_json(payload, _Statement, where)
    digests: dict[str, str] = {}
    for resource in statement.predicate.resources:
        if not _is_plain(resource.name):
            raise BundleError(f"{where} signs {resource.name!r}, which is no name of a file in a bundle")
        if resource.name in digests:
            raise BundleError(f"{where} signs {resource.name!r} twice")
        digests[resource.name] = resource.digest
    for path in statement.predicate.serialization.ignore_paths:
        if path not in (*GIT_PATHS, *ADDED_PATHS):
            raise BundleError(f"{where} leaves out {path!r}, where files could be altered unseen")
    if _root(digests.values()) != statement.subject[0].digest.sha256:
        raise BundleError(f"{where} has a subject whose SHA-256 is not that of its files")
    return digests


def _root(digests: Iterable[str]) -> str:
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _is_plain(name: str) -> bool:
    """Whether it is the one way to write a path that stays in its folder."""
    try:
        return "/".join(parts_of(name)) == name
    except BundleError:
        return False


def _holds(path: str, name: str) -> bool:
    return name == path or name.startswith(f"{path}/")
