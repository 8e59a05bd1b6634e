"""JSON that is signed, read as its type."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from engines.bundle.documents import json_of
from engines.errors import BundleError, InputError

_Kind = TypeVar("_Kind")


def document_from_json(content: bytes, kind: type[_Kind], where: str, error: type[InputError] = BundleError) -> _Kind:
    """A document as its type. Raises ``error``, which names ``where``, for what :func:`json_of` or the type refuses."""
    try:
        return msgspec.convert(json_of(content), kind)
    except msgspec.ValidationError as reason:
        raise error(f"{where} cannot be used: {reason}") from reason
    except ValueError as reason:
        raise error(f"{where} cannot be used: it is not JSON: {reason}") from reason
