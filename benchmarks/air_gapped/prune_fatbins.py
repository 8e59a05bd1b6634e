"""Keep the kernels of one GPU architecture in a CUDA library, so that it compresses to a fraction.

    python prune_fatbins.py LIBRARY PRUNED ARCHITECTURE

A library has its kernels in fat binaries, with one entry for each architecture and kind of code. The code of all other
architectures is overwritten with zeros; nothing moves, so the library loads as before, and runs on GPUs of that
architecture alone. ``ARCHITECTURE`` is the compute capability without its dot: 90 for H100 and H200, 89 for RTX 40.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MAGIC = struct.pack("<I", 0xBA55ED50)
_HEADER = struct.Struct("<4sHHQ")
"""Of a fat binary: magic number, version, size of this header, bytes of all entries."""
_ENTRY = struct.Struct("<HHIQ12xI")
"""Of an entry: kind, version, size of this header, bytes of code, and behind more of no matter the architecture."""
_ENTRY_HEADERS = range(64, 4097)
"""Sizes that the header of an entry has; with another one, what looked like an entry is none."""


class Code(NamedTuple):
    """Where the code of an architecture lies in a library."""

    architecture: int
    start: int
    end: int


def codes_of(library: bytes | bytearray) -> Iterator[Code]:
    """Of every entry of every fat binary."""
    at = 0
    while (at := library.find(_MAGIC, at)) >= 0:
        end = _end_of_binary(library, at)
        if end is None:
            # The four bytes occur elsewhere too.
            at += len(_MAGIC)
            continue
        entry = at + _HEADER.size
        while entry + _ENTRY.size <= end:
            _, _, header, size, architecture = _ENTRY.unpack_from(library, entry)
            if header not in _ENTRY_HEADERS or entry + header + size > end:
                break
            yield Code(architecture, entry + header, entry + header + size)
            entry += header + size
        at = end


def _end_of_binary(library: bytes | bytearray, at: int) -> int | None:
    if at + _HEADER.size > len(library):
        return None
    _, version, header, size = _HEADER.unpack_from(library, at)
    end = at + _HEADER.size + int(size)
    return end if version == 1 and header == _HEADER.size and end <= len(library) else None


def pruned(library: bytes, architecture: int) -> tuple[bytes, int]:
    """The library with the code of one architecture, and how many bytes became zeros.

    Raises ``ValueError``, with the architectures that there are, when this one is not among them.
    """
    codes = list(codes_of(library))
    known = sorted({code.architecture for code in codes})
    if architecture not in known:
        raise ValueError(f"the library has no code for {architecture}; it has {', '.join(map(str, known)) or 'none'}")
    content, zeroed = bytearray(library), 0
    for code in codes:
        if code.architecture != architecture:
            content[code.start : code.end] = bytes(code.end - code.start)
            zeroed += code.end - code.start
    return bytes(content), zeroed


def main() -> int:
    """Prune one library."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("pruned", type=Path)
    parser.add_argument("architecture", type=int)
    options = parser.parse_args()
    try:
        content, zeroed = pruned(options.library.read_bytes(), options.architecture)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    options.pruned.write_bytes(content)
    print(f"{zeroed / 2**20:.0f} of {len(content) / 2**20:.0f} MiB are code of other architectures, now zeros")
    return 0


if __name__ == "__main__":
    sys.exit(main())
