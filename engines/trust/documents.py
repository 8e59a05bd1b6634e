"""JSON of others, read strictly: one meaning or none."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from engines.bundle.documents import repeated_key
from engines.errors import BundleError, InputError

_Kind = TypeVar("_Kind")


def document_from_json(content: bytes, kind: type[_Kind], where: str, error: type[InputError] = BundleError) -> _Kind:
    """A document as its type. Raises ``error``, which names ``where``.

    Two values under one key are refused, since readers differ in which of them they take; so are NaN, the infinities,
    fields that the type does not name, and halves of characters, which cannot be written down again.
    """
    try:
        parsed = json.loads(content.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number)
        _check_text(parsed)
        return msgspec.convert(parsed, kind)
    except msgspec.ValidationError as reason:
        raise error(f"{where} cannot be used: {reason}") from reason
    except (ValueError, RecursionError) as reason:
        raise error(f"{where} cannot be used: it is not JSON: {reason}") from reason


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := repeated_key(pairs)) is not None:
        raise ValueError(f"it has the key {twice!r} twice")
    return dict(pairs)


def _check_text(parsed: Any) -> None:
    try:
        json.dumps(parsed, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"the escape \\u{ord(half):04x} stands for half of a character") from error


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")
