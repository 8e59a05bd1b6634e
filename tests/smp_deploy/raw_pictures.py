"""Pictures put together by hand: of depths and forms that Pillow reads and does not write."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

GREY, RGB, INDEXED, GREY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
"""Colour types of a PNG."""
_CHANNELS = {GREY: 1, RGB: 3, INDEXED: 1, GREY_ALPHA: 2, RGB_ALPHA: 4}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def packed(values: NDArray[np.integer], bits: int) -> bytes:
    """Rows of samples ``(H, n)``, each row padded to whole bytes."""
    if bits == 16:
        return b"".join(row.astype(">u2").tobytes() for row in values)
    spread = (values[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(spread.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


def png(values: NDArray[np.integer], bits: int, kind: int = GREY, *before: bytes) -> bytes:
    """A PNG of values ``(H, W)``, or ``(H, W, channels)``, at a depth."""
    height, width = values.shape[:2]
    rows = packed(values.reshape(height, -1), bits)
    stride = len(rows) // height
    lines = b"".join(b"\0" + rows[at : at + stride] for at in range(0, len(rows), stride))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(lines))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + body + chunk(b"IEND", b"")


def palette(*colours: tuple[int, int, int]) -> bytes:
    return chunk(b"PLTE", bytes(channel for colour in colours for channel in colour))


def orientation(value: int, *others: tuple[int, int, int]) -> bytes:
    """EXIF with an orientation, and rationals ``(tag, numerator, denominator)``."""
    count = 1 + len(others)
    entries, at, data = [struct.pack("<HHIHH", 0x0112, 3, 1, value, 0)], 8 + 2 + 12 * count + 4, b""
    for tag, numerator, denominator in sorted(others):
        entries.append(struct.pack("<HHII", tag, 5, 1, at + len(data)))
        data += struct.pack("<II", numerator, denominator)
    return b"II*\0" + struct.pack("<IH", 8, count) + b"".join(entries) + bytes(4) + data


def tiff(values: NDArray[np.integer], bits: int, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A TIFF of values ``(H, W)``, or ``(H, W, 3)``, at a depth, little-endian and not packed."""
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    flat = values.reshape(height, -1)
    kinds = {8: "<i1" if sample_format == 2 else "u1", 16: "<u2", 32: "<i4"}
    data = flat.astype(kinds[bits]).tobytes() if bits in kinds else packed(flat, bits)
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits),
        (259, 3, 1, 1),
        (262, 3, 1, photometric),
        (273, 4, 1, 0),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
        (339, 3, 1, sample_format),
    ]
    at = 8 + 2 + 12 * len(tags) + 4
    beside = struct.pack("<HHH", bits, bits, bits) if channels == 3 else b""
    table = b"".join(
        struct.pack("<HHII", tag, kind, count, at + len(beside) if tag == 273 else at if count > 2 else value)
        for tag, kind, count, value in tags
    )
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + table + bytes(4) + beside + data


def pnm(values: NDArray[np.integer], largest: int, *, plain: bool = False) -> bytes:
    """A PPM of ``(H, W, 3)`` or a PGM of ``(H, W)`` with a largest value; ``plain`` writes numbers as text."""
    height, width = values.shape[:2]
    magic = {(2, True): 2, (3, True): 3, (2, False): 5, (3, False): 6}[values.ndim, plain]
    head = f"P{magic}\n# by hand\n{width} {height}\n{largest}\n".encode()
    if plain:
        return head + " ".join(map(str, values.ravel().tolist())).encode() + b"\n"
    return head + values.astype(">u2" if largest > 255 else "u1").tobytes()
