"""JSON of others without a schema: small classes files, metadata."""

from __future__ import annotations

import json
from typing import Any

from engines.bundle.limits import JSON_DEPTH


def json_of(document: str | bytes) -> Any:
    """What a JSON document says. Raises ``ValueError`` for damage, a key that stands twice, and deep nesting.

    The caller bounds its length. Values that are nested deeper than :data:`JSON_DEPTH` would be accepted here and
    break whatever walks through them.
    """
    try:
        value = json.loads(document, object_pairs_hook=_object)
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
    return value


_TOO_DEEP = f"lists and objects are nested more than {JSON_DEPTH} deep"


def repeated_key(pairs: list[tuple[str, Any]]) -> str | None:
    """The first key of an object that stands there more than once: readers differ in which value they take."""
    names = [name for name, _ in pairs]
    return next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (twice := repeated_key(pairs)) is not None:
        raise ValueError(f"the key {twice!r} stands twice")
    return dict(pairs)
