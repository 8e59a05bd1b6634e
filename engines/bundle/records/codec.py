"""Reading and writing of records: JSON, with infinities and NaN, which it lacks, as text.

A file's name may have bytes that are no UTF-8, and JSON has no form for them: records have them written out.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from engines.bundle.documents import struct_from_json
from engines.errors import BundleError
from engines.text import encodable

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""A number of things; as many as a float holds exactly, so that shares of it can be computed."""


class Figure(float):
    """A measured number. In JSON, infinities and NaN are the texts ``inf``, ``-inf`` and ``nan``."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Every record: immutable, and without fields that the schema does not name."""


_Read = TypeVar("_Read")


def json_from_record(record: msgspec.Struct) -> bytes:
    """The record as a JSON document, indented."""
    return msgspec.json.format(msgspec.json.encode(builtins_from_record(record)), indent=2) + b"\n"


def builtins_from_record(record: msgspec.Struct) -> dict[str, Any]:
    """The record as its JSON document is: dictionaries, lists, text and finite numbers."""
    return dict(_encodable(msgspec.to_builtins(record, enc_hook=_encoded)))


def record_from_json(document: bytes, kind: type[_Read], name: str | Path) -> _Read:
    """Read a record; ``name`` is its file's. Raises :class:`BundleError` that says what is wrong, and where."""
    try:
        return struct_from_json(document, kind, _decoded)
    except msgspec.ValidationError as error:
        raise BundleError(f"{name} is no record of its kind: {error}") from error
    except ValueError as error:
        raise BundleError(f"{name} cannot be read: {error}") from error


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, dict):
        return {_encodable(key): _encodable(held) for key, held in value.items()}
    return list(map(_encodable, value)) if isinstance(value, (list, tuple)) else value


def _encoded(value: object) -> object:
    if isinstance(value, Figure):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    raise NotImplementedError


def _decoded(kind: type[Any], value: object) -> Figure:
    if kind is not Figure:
        raise NotImplementedError
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number or value in ("inf", "-inf", "nan"):
        try:
            return Figure(value)  # type: ignore[arg-type]
        except OverflowError as error:
            raise ValueError("number out of range") from error
    raise ValueError(f"expected a number, 'inf', '-inf' or 'nan', received {value!r}")
