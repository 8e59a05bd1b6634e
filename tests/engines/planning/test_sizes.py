"""Sizes of memory, read and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import InputError
from engines.planning.sizes import bytes_of_memory, memory_text


@pytest.mark.parametrize(
    ("text", "size"), [("1KiB", 1024), ("0.125KiB", 128), ("1.5MiB", 1572864), (" 2GiB ", 2147483648)]
)
def test_sizes_by_hand(text: str, size: int) -> None:
    assert bytes_of_memory(text) == size


@given(st.integers(1, 999_999), st.sampled_from(["", ".5", ".25", ".125", ".875"]), st.sampled_from("KMG"))
def test_what_was_read_is_written_and_read_again(whole: int, part: str, unit: str) -> None:
    size = bytes_of_memory(f"{whole}{part}{unit}iB")
    assert bytes_of_memory(memory_text(size)) == size


@pytest.mark.parametrize("text", ["", "1", "1.5", "1GB", "-1GiB", "0MiB", "1e3KiB", "0.0001GiB", "0.001KiB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InputError, match="a size"):
        bytes_of_memory(text)
