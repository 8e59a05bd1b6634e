"""JSON of others: one meaning or none, and no more time and memory than its length asks for."""

from __future__ import annotations

import json
import tracemalloc

import msgspec
import pytest

from engines.bundle.documents import json_of, repeated_key, struct_from_json


class Known(msgspec.Struct):
    numbers: list[int] = []


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b'{"a": 1, "a": 1}', "the key 'a' stands twice"),
        (b'[{"b": {"a": 1, "c": 2, "a": 3}}]', "the key 'a' stands twice"),
        (b"[NaN]", "NaN is no number of JSON"),
        (b"[-Infinity]", "-Infinity is no number of JSON"),
        (b"\xff", "can't decode byte"),
        ("{}".encode("utf-16"), "can't decode byte"),
        (b"[" * 66 + b"]" * 66, "nested more than 64 deep"),
        (b"[" * 100_000 + b"]" * 100_000, "nested more than 64 deep"),
        (rb'{"name": "\ud83d"}', r"the escape \\ud83d stands for half of a character"),
    ],
)
def test_what_readers_may_understand_in_several_ways(document: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        json_of(document)


def test_the_first_key_that_comes_again() -> None:
    assert repeated_key([("a", 1), ("b", 2), ("b", 3), ("a", 4)]) == "b"
    assert repeated_key([("a", 1), ("b", 2)]) is None


def test_a_repeated_key_among_many_is_found_at_once() -> None:
    """A comparison of each with each would take an hour."""
    many = ",".join(f'"{number}":0' for number in range(300_000))
    with pytest.raises(ValueError, match="the key 'x' stands twice"):
        json_of(f'{{{many},"x":0,"x":0}}')


def test_a_document_of_a_schema_has_each_key_once() -> None:
    assert struct_from_json(b'{"numbers": [1]}', Known).numbers == [1]
    with pytest.raises(ValueError, match="the key 'numbers' stands twice"):
        struct_from_json(b'{"numbers": [1], "numbers": [2]}', Known)
    with pytest.raises(ValueError, match="the key 'other' stands twice"):
        struct_from_json(b'{"other": 1, "other": 2}', Known)
    with pytest.raises(msgspec.ValidationError, match="Expected `int`"):
        struct_from_json(b'{"numbers": ["1"]}', Known)


def test_what_is_not_of_the_schema_takes_no_memory() -> None:
    document = b'{"numbers": [[]' + b",[]" * 1_000_000 + b"]}"
    tracemalloc.start()
    with pytest.raises(msgspec.ValidationError):
        struct_from_json(document, Known)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert len(json.loads(document)["numbers"]) == 1_000_001
