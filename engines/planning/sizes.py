"""Sizes of memory, as users write them and as messages show them."""

from __future__ import annotations

import math
import re

from engines.errors import InputError

_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def bytes_of_memory(memory: int | str) -> int:
    """``"512MiB"`` -> 536870912; a number is bytes already.

    Raises :class:`InputError` for a text without a unit: a bare number is MiB to trtexec and bytes to other tools.
    """
    if isinstance(memory, int):
        if memory < 1:
            raise InputError(f"a size of memory is at least one byte; received memory={memory}")
        return memory
    text = memory.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        raise InputError(
            f"a size carries its unit, {text}MiB for example; a bare number is MiB to trtexec and bytes to other "
            f"tools; received {text!r}"
        )
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([KMG]iB)", text)
    size = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not size or size % 1:
        raise InputError(f"a size is a number with KiB, MiB or GiB, 512MiB for example; received {text!r}")
    return int(size)


def memory_text(size: int) -> str:
    """As :func:`bytes_of_memory` reads it: 536870912 -> ``"0.5GiB"``; exact for every size that was read of a text."""
    unit = next((name for name in ("GiB", "MiB") if size * 8 % _UNITS[name] == 0), "KiB")
    return f"{size / _UNITS[unit]:.3f}".rstrip("0").rstrip(".") + unit


def shown_bytes(size: int) -> str:
    """``"1000.0 MiB"``, or ``"1.5 KiB"`` below one MiB, rounded up, so that a budget of what is shown suffices."""
    unit = "MiB" if size >= _UNITS["MiB"] else "KiB"
    return f"{math.ceil(size / _UNITS[unit] * 10) / 10:.1f} {unit}"
