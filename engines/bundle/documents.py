"""JSON of others: one reader, for which a document has one meaning or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import msgspec

from engines.bundle.limits import JSON_DEPTH

_Read = TypeVar("_Read")


def struct_from_json(
    document: bytes, kind: type[_Read], dec_hook: Callable[[type[Any], Any], Any] | None = None
) -> _Read:
    """What a JSON document of a known schema says.

    The caller bounds its length. Its types are compared first, so that what is not of the schema is refused where it
    begins, before it takes memory; then all that :func:`json_of` refuses is. Raises ``msgspec.ValidationError`` for
    another schema, ``ValueError`` for all else.
    """
    try:
        read = msgspec.json.decode(document, type=kind, dec_hook=dec_hook)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    json_of(document)
    return read


def glance(document: bytes, kind: type[_Read]) -> _Read | None:
    """The few fields that ``kind`` names, of a document that was refused: to say why; ``None`` where it has none."""
    try:
        return msgspec.json.decode(document, type=kind)
    except (msgspec.DecodeError, RecursionError):
        return None


def json_of(document: str | bytes) -> Any:
    """What a JSON document says.

    The caller bounds its length. Raises ``ValueError`` for damage, bytes that are no UTF-8, NaN and the infinities, a
    key that stands twice, halves of characters, which cannot be written down again, and values that are nested deeper
    than :data:`JSON_DEPTH`, which would break whatever walks through them.
    """
    text = document.decode("utf-8") if isinstance(document, bytes) else document
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    level, depth = [value], 0
    while level := [
        inner
        for outer in level
        if isinstance(outer, (list, dict))
        for inner in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        depth += 1
        if depth > JSON_DEPTH:
            raise ValueError(_TOO_DEEP)
    _check_text(value)
    return value


_TOO_DEEP = f"lists and objects are nested more than {JSON_DEPTH} deep"


def repeated_key(pairs: list[tuple[str, Any]]) -> str | None:
    """The first key of an object that stands there once more: readers differ in which value they take."""
    seen = set[str]()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := repeated_key(pairs)) is not None:
        raise ValueError(f"the key {twice!r} stands twice")
    return dict(pairs)


def _check_text(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        half = error.object[error.start]
        raise ValueError(f"the escape \\u{ord(half):04x} stands for half of a character") from error


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")
