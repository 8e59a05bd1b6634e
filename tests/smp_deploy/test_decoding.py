"""Pictures of others: what there would be is read off the header, and a bomb is refused before it is decoded."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.bundle.limits import PICTURE_BYTES
from engines.errors import DatasetError, FrameError, InputError
from smp_deploy.benchmarking.peak_memory import peak_of
from smp_deploy.datasets.label_images import labels_from_file
from smp_deploy.images import Wanted, check_header, frame_from_file

MIB = 2**20
SIZE = (6, 8)
WANTED = Wanted.by_bundle(SIZE)
RGB = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n%%EOF\n"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(height: int, width: int, *before: bytes, after: bytes = b"", pixels: bytes = b"") -> bytes:
    """A PNG of one grey value, made row by row: no array of its size is needed."""
    if not pixels:
        packer, row = zlib.compressobj(9), bytes(width + 1)
        pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + chunk(b"IDAT", pixels) + after + chunk(b"IEND", b"")


def orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return chunk(b"eXIf", exif.tobytes()[6:])


def tiff(*directories: list[tuple[int, int, int, int]]) -> bytes:
    """A TIFF of tags ``(tag, type, count, value)`` that lie one directory after the other."""
    parts, at = [b"II*\0" + struct.pack("<I", 8)], 8
    for index, tags in enumerate(directories):
        at += 2 + 12 * len(tags) + 4
        parts += [struct.pack("<H", len(tags)), *(struct.pack("<HHII", *tag) for tag in sorted(tags))]
        parts.append(struct.pack("<I", at if index + 1 < len(directories) else 0))
    return b"".join(parts)


GREY = [(256, 4, 1, 8), (257, 4, 1, 6), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 0), (278, 4, 1, 6)]


def jpeg(*, before: bytes = b"", scans: int = 1) -> bytes:
    stream = BytesIO()
    Image.fromarray(RGB).save(stream, "JPEG", progressive=scans > 1)
    content = stream.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:2] + before + content[2:last] + content[last:-2] * scans + content[-2:]


def webp(extra: bytes = b"", size: tuple[int, int] = SIZE) -> bytes:
    """An extended WebP whose canvas is of any size; its one image is small."""
    stream = BytesIO()
    Image.fromarray(RGB).save(stream, "WEBP", lossless=True)
    canvas = struct.pack("<I", size[1] - 1)[:3] + struct.pack("<I", size[0] - 1)[:3]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + stream.getvalue()[12:] + extra
    return b"RIFF" + struct.pack("<I", len(body)) + body


HEADERS: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG of 177 MP": (lambda: png(13300, 13300), "is 13300x13300 (height x width)"),
    "WebP with a canvas of 177 MP": (lambda: webp(size=(13300, 13300)), "13300x13300|cannot read the image"),
    "JPEG of 3 GP": (
        lambda: b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\x01\x01\x11\0\xff\xda\0\0", "cannot read the image"
    ),
    "BMP of 10 GP": (
        lambda: b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 100000, 100000, 1, 24, 0, 0, 0, 0, 0, 0),
        "cannot read the image",
    ),
    "PPM of 100 MP": (lambda: b"P6 10000 10000 255\n", "is 10000x10000 (height x width)"),
    "EPS": (lambda: EPS, "is no image that can be read; BMP, JPEG, PNG, PPM, TIFF, WEBP can"),
}  # fmt: skip

BESIDE: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG with many profiles": (
        lambda: png(*SIZE, chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(MIB))) * 3000),
        "is cut into more pieces than an image has",
    ),
    "PNG with a text that unpacks to 64 MiB": (
        lambda: png(*SIZE, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(64 * MIB)))),
        "cannot read the image .*Decompressed data too large",
    ),
    "PNG with many pieces of pixels": (
        lambda: png(*SIZE).replace(chunk(b"IEND", b""), chunk(b"IDAT", b"") * 70000 + chunk(b"IEND", b"")),
        "is cut into more pieces than an image has",
    ),
    "PNG with 20 MiB of EXIF": (lambda: png(*SIZE, chunk(b"eXIf", bytes(20 * MIB))), "bytes beside its pixels"),
    "JPEG with 20 MiB of EXIF": (
        lambda: jpeg(before=(b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 320),
        "bytes beside its pixels",
    ),
    "JPEG of 10,000 scans": (lambda: jpeg(scans=10_000), "scans, where a progressive JPEG has about 10"),
    "WebP with 20 MiB of EXIF": (
        lambda: webp(b"EXIF" + struct.pack("<I", 20 * MIB) + bytes(20 * MIB)), "bytes beside its pixels"
    ),
    "TIFF of 40,000 images": (lambda: tiff(*[GREY] * 40_000), "holds more than 1000 images"),
    "TIFF with a tag of 5 million numbers": (
        lambda: tiff([*GREY, (700, 4, 5_000_000, 8)]) + bytes(20 * MIB), "5000000 numbers in its tag 700"
    ),
    "TIFF with tiles of 2 GP": (
        lambda: tiff([*GREY[:5], (322, 4, 1, 40000), (323, 4, 1, 50000), (324, 4, 1, 8), (325, 4, 1, 8)]),
        "has tiles of 50000x40000",
    ),
    "TIFF that is cut off": (lambda: tiff(GREY)[:50], "is a TIFF that is cut off or damaged"),
}  # fmt: skip

READERS: dict[str, Callable[[Path], object]] = {
    "the size is known": lambda path: frame_from_file(path, WANTED),
    "any size": frame_from_file,
    "header, the size is known": lambda path: check_header(path, WANTED),
    "header, any size": lambda path: check_header(path, None),
    "labels": lambda path: labels_from_file(path, None),
    "labels, the size is known": lambda path: labels_from_file(path, None, WANTED),
}


def refusals(path: str) -> list[str]:
    """What every way to read a picture says of it, in a process of its own."""
    said = []
    for read in READERS.values():
        try:
            read(Path(path))
        except InputError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("name", [*HEADERS, *BESIDE])
def test_a_bomb_is_refused_before_it_is_decoded(name: str, tmp_path: Path) -> None:
    make, message = (HEADERS | BESIDE)[name]
    path = tmp_path / "bomb.png"
    path.write_bytes(make())
    peak = peak_of("tests.smp_deploy.test_decoding:refusals", str(path), timeout_s=60)
    # The size that is known says more than that it is no image of less than 64 Mi pixels.
    assert len(peak.returned) == len(READERS)
    assert all("bomb.png" in said for said in peak.returned)
    message = message if "|" in message or ".*" in message else re.escape(message)
    assert re.search(message, peak.returned[0]), peak.returned
    # With torch imported or not: far below what the pixels would take.
    assert peak.work_bytes < 400 * MIB


def test_a_picture_of_another_size_is_refused_by_its_header(tmp_path: Path) -> None:
    # There are no pixels behind the headers: they cannot have been decoded.
    path = tmp_path / "a.png"
    path.write_bytes(png(7, 8, pixels=b"?"))
    for read in (frame_from_file, check_header):
        with pytest.raises(
            FrameError, match=r"a\.png is 7x8 \(height x width\), the bundle takes 6x8; export for that"
        ):
            read(path, WANTED)
    path.write_bytes(png(10_000, 10_000, pixels=b"?"))
    with pytest.raises(FrameError, match=r"a\.png is 10000x10000 \(height x width\); at most 64 Mi pixels are decoded"):
        frame_from_file(path)
    with pytest.raises(DatasetError, match=r"a\.png: not a readable image: it is 10000x10000 \(height x width\)"):
        labels_from_file(path, None)


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("turn", [1, 2, 3, 4, 5, 6, 7, 8])
def test_orientations_wherever_they_are_said(where: str, turn: int, tmp_path: Path) -> None:
    on_its_side = turn > 4
    height, width = SIZE[::-1] if on_its_side else SIZE
    before, after = ((orientation(turn),), b"") if where == "before" else ((), orientation(turn))
    values = np.random.default_rng(1).integers(0, 256, (height, width), dtype=np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    path = tmp_path / "a.png"
    path.write_bytes(png(height, width, *before, after=after, pixels=zlib.compress(rows)))
    check_header(path, WANTED)
    expected = {
        1: values, 2: values[:, ::-1], 3: values[::-1, ::-1], 4: values[::-1],
        5: values.T, 6: np.rot90(values, -1), 7: values[::-1, ::-1].T, 8: np.rot90(values),
    }[turn]  # fmt: skip
    np.testing.assert_array_equal(frame_from_file(path, WANTED)[..., 0], expected)
    np.testing.assert_array_equal(frame_from_file(path)[..., 0], expected)
    if on_its_side:
        # Of the bundle's size by its header, of the other one in fact.
        path.write_bytes(png(*SIZE, *before, after=after))
        with pytest.raises(FrameError, match=r"is 8x6 \(height x width\), the bundle takes 6x8"):
            frame_from_file(path, WANTED)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", ["jpg", "tiff", "webp"])
def test_orientations_of_other_formats(suffix: str, turn: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = np.full((*(SIZE[::-1] if turn > 4 else SIZE), 3), 90, np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    check_header(path, WANTED)
    assert frame_from_file(path, WANTED).shape == (*SIZE, 3)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "loop.png").symlink_to("loop.png")
    with (tmp_path / "huge.png").open("wb") as huge:
        huge.truncate(PICTURE_BYTES + 1)
    for name, said in {
        "pipe.png": "is a pipe, where a file is needed",
        "zero.png": "is a device, where a file is needed",
        "loop.png": "Too many levels of symbolic links",
        "huge.png": "is larger than 256 MiB",
    }.items():
        for read in READERS.values():
            with pytest.raises(InputError, match=said) as caught:
                read(tmp_path / name)
            assert name in str(caught.value)


def test_a_picture_starts_no_program(tmp_path: Path) -> None:
    program, mark = tmp_path / "bin" / "gs", tmp_path / "started"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    (tmp_path / "frame.png").write_bytes(EPS)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"}
    # The trap works: Pillow with all its formats starts the program.
    script = "import sys; from PIL import Image; Image.open(sys.argv[1]).load()"
    subprocess.run([sys.executable, "-c", script, tmp_path / "frame.png"], env=environment, capture_output=True)
    assert mark.exists()
    mark.unlink()
    script = "import sys; from tests.smp_deploy.test_decoding import refusals; print(len(refusals(sys.argv[1])))"
    command = [sys.executable, "-c", script, str(tmp_path / "frame.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(READERS)}\n"
    assert not mark.exists()
