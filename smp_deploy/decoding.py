"""Pictures of others: from the bytes of a file to a decoded image, with every limit seen to before a pixel is decoded.

A picture is data from somebody else, and its decoders are much code. So only the formats of :data:`FORMATS` are
tried: of the others, Pillow gives some to programs that it looks for on the PATH. A picture of a few hundred bytes may
stand for gigabytes, in its pixels or beside them; what there would be is read off its header first.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from engines.bundle.gate import read_file
from engines.bundle.limits import PICTURE_BYTES, PICTURE_PIXELS
from engines.errors import InputError
from engines.schedules.phases import Size

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of what files of :data:`SUFFIXES` hold."""

_MOST_BESIDE = 16 << 20
"""Bytes of a file that are no pixels: EXIF, a colour profile, texts. Cameras write up to a megabyte."""
_MOST_CHUNKS = 256
"""Of a PNG, beside its pixels: each may unpack to a megabyte. Editors write up to 20."""
_MOST_PIXEL_CHUNKS = 1 << 16
"""Of a PNG. 4096 bytes each, the smallest that is met, make up the largest file."""
_MOST_SCANS = 256
"""Of a progressive JPEG, which is walked through as a whole for each; encoders write about 10."""
_MOST_NUMBERS = 1 << 20
"""In a tag of a TIFF: Python's numbers take 40 bytes each. A strip for each row of an image is 8192."""
_MOST_TILE = 1 << 24
"""Pixels of a tile of a TIFF, which is unpacked whatever the size of its image. Editors write 256x256."""
_PPM_HEADER = 4096
"""Bytes of a PPM that its header is looked for in; comments are part of it."""
_MOST_COUNTED = 1000
"""Images in a TIFF that are counted."""


@dataclass(frozen=True)
class Samples:
    """How a file stores its pixels, whatever its decoder makes of them: one that has fewer bits cuts or stretches."""

    largest: int
    """The largest value of a channel: 255 of 8 bits, 1023 of 10."""
    signed: bool = False
    """Numbers below 0 have a form, too."""
    inverted: bool = False
    """White is 0."""

    @property
    def bits(self) -> int:
        """Of a channel."""
        return self.largest.bit_length()


@dataclass(frozen=True)
class Picture:
    """An image that is open, its pixels perhaps not decoded yet, and how its file stores them."""

    image: Image.Image
    samples: Samples
    lossy: bool
    """Whether pixels are kept only nearly as they were."""


class PictureError(InputError):
    """A picture that is not decoded. The message is what it is or has, without the file's name in front."""


class DamagedPicture(PictureError):
    """A picture that Pillow cannot decode. The message is Pillow's."""


@contextmanager
def opened_picture(path: Path, check_size: Callable[[Size], None] | None = None) -> Iterator[Picture]:
    """An image whose header is read, its pixels not yet: they are decoded inside the block.

    Args:
        path: a file of the user's.
        check_size: raises for a size ``(height, width)``, not turned, that is not to be decoded; by default one of
            more than :data:`PICTURE_PIXELS`.

    Raises:
        PictureError: no image, one of another format, damage, several images, or more than there may be beside the
            pixels. Damage that is met inside the block, too.
        InputError: no regular file, or more than :data:`PICTURE_BYTES`; what ``check_size`` raises.
        OSError: the system does not give the file.
    """
    content = read_file(path, PICTURE_BYTES)
    try:
        count = _images_beside(content)
        with _without_warnings(), Image.open(BytesIO(content), formats=FORMATS) as image:
            count = count or getattr(image, "n_frames", 1)
            if count > 1:
                shown = f"more than {_MOST_COUNTED}" if count > _MOST_COUNTED else str(count)
                raise PictureError(f"holds {shown} images; save the one that is meant")
            (check_size or _check_pixels)((image.height, image.width))
            yield Picture(image, _samples(content, image), _is_lossy(content, image))
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise PictureError(f"is no image that can be read; {', '.join(FORMATS)} can") from error
    except Exception as error:
        # Pillow reports damage and its own limit of pixels as any of a dozen kinds.
        raise DamagedPicture(str(getattr(error, "strerror", None) or error) or type(error).__name__) from error


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Pillow warns of damage that it can live with, and of sizes that are judged here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check_pixels(size: Size) -> None:
    if size[0] * size[1] > PICTURE_PIXELS:
        raise PictureError(
            f"is {size[0]}x{size[1]} (height x width); at most {PICTURE_PIXELS >> 20} Mi pixels are decoded"
        )


_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PPM = re.compile(rb"P([2356])" + _GAP + rb"\d+" + _GAP + rb"\d+" + _GAP + rb"(\d+)")
_BITS, _PHOTOMETRIC, _COMPRESSION, _FORMAT = 258, 262, 259, 339
"""Tags of a TIFF."""
_OLD_JPEG, _JPEG, _SIGNED = 6, 7, 2
"""Values of the last two of them."""


def _samples(content: bytes, image: Image.Image) -> Samples:
    """How a file stores its pixels, by its own header: what is decoded has 8 bits a channel in most modes."""
    if image.format == "PNG":
        # The header is the first piece: a length, a name, width and height of four bytes each, the depth.
        return Samples((1 << content[24]) - 1)
    if image.format == "PPM":
        if content[:2] in (b"P1", b"P4"):
            return Samples(1, inverted=True)
        found = _PPM.match(content[:_PPM_HEADER])
        if found is None:
            raise PictureError("is a PPM whose header is not one of grey or RGB with a largest value")
        return Samples(int(found[2]))
    if isinstance(image, TiffImageFile):
        tags = image.tag_v2
        bits, formats = (tags.get(tag, usual) for tag, usual in ((_BITS, (1,)), (_FORMAT, (1,))))
        # Deeper than any format is; what a tag says may be anything.
        depth = min(max(bits), 64)
        return Samples((1 << depth) - 1, signed=_SIGNED in formats, inverted=tags.get(_PHOTOMETRIC) == 0)
    # Of BMP with 5 and 6 bits a channel, colours are stretched as they should be; other formats have 8.
    return Samples(255)


def _is_lossy(content: bytes, image: Image.Image) -> bool:
    if isinstance(image, TiffImageFile):
        return image.tag_v2.get(_COMPRESSION) in (_OLD_JPEG, _JPEG)
    return image.format == "JPEG" or (
        image.format == "WEBP" and any(kind == b"VP8 " for kind, _ in _riff_chunks(content))
    )


def _images_beside(content: bytes) -> int:
    """Raise :class:`PictureError` for more beside the pixels than an image has. The images of a TIFF; else 0."""
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        _check_png(content)
    elif content.startswith(b"\xff\xd8"):
        _check_jpeg(content)
    elif content.startswith(b"RIFF"):
        _check_beside(sum(size for kind, size in _riff_chunks(content) if kind in (b"EXIF", b"ICCP", b"XMP ")))
    elif content[:2] in (b"II", b"MM") and content[2:4] in (b"\x2a\0", b"\0\x2a", b"\x2b\0", b"\0\x2b"):
        return _images_of_tiff(content)
    return 0


def _check_beside(size: int) -> None:
    if size > _MOST_BESIDE:
        raise PictureError(f"has {size} bytes beside its pixels, where up to {_MOST_BESIDE} are read")


def _check_png(content: bytes) -> None:
    at, others, beside, pixels = 8, 0, 0, 0
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"IDAT":
            pixels += 1
        else:
            others, beside = others + 1, beside + length
        if others > _MOST_CHUNKS or pixels > _MOST_PIXEL_CHUNKS:
            raise PictureError(f"is cut into more pieces than an image has: {_MOST_CHUNKS} beside its pixels are read")
        if kind == b"IEND":
            break
        at += 12 + length
    _check_beside(min(beside, len(content)))


_WITHOUT_LENGTH = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})
"""Markers of a JPEG that have no content."""


def _check_jpeg(content: bytes) -> None:
    # Inside coded pixels 0xFF is followed by 0: what looks like the beginning of a scan is one.
    if (scans := content.count(b"\xff\xda")) > _MOST_SCANS:
        raise PictureError(f"has {scans} scans, where a progressive JPEG has about 10; up to {_MOST_SCANS} are read")
    at, beside = 2, 0
    while 0 <= (at := content.find(b"\xff", at)) < len(content) - 3 and content[at + 1] != 0xDA:
        if content[at + 1] == 0xFF:
            at += 1
        elif content[at + 1] in _WITHOUT_LENGTH:
            at += 2
        else:
            length = int.from_bytes(content[at + 2 : at + 4], "big")
            beside += length
            at += 2 + length
    _check_beside(beside)


def _riff_chunks(content: bytes) -> Iterator[tuple[bytes, int]]:
    at = 12
    while at + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, at)
        yield kind, min(length, len(content))
        at += 8 + length + length % 2


_TEXT_TYPES = frozenset({1, 2, 7})
"""Bytes, ASCII and undefined: kept as they are, whatever their length."""
_TILE_SIDES = (322, 323)
_UNIT = {3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 5: 8, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def _images_of_tiff(content: bytes) -> int:
    """How many images a TIFF holds, at most one more than :data:`_MOST_COUNTED`. Raises :class:`PictureError`."""
    order = "<" if content[:2] == b"II" else ">"
    big = content[2:4] in (b"\x2b\0", b"\0\x2b")
    count, entry, link = (f"{order}Q", f"{order}HHQ8s", f"{order}Q") if big else (
        f"{order}H", f"{order}HHI4s", f"{order}I"
    )  # fmt: skip
    seen: set[int] = set()
    try:
        (at,) = struct.unpack_from(link, content, 8 if big else 4)
        while at and at not in seen and len(seen) <= _MOST_COUNTED:
            seen.add(at)
            (entries,) = struct.unpack_from(count, content, at)
            if entries > 4096:
                raise PictureError(f"has a directory of {entries} tags, where up to 4096 are read")
            at += struct.calcsize(count)
            sides = [1, 1]
            for tag, kind, numbers, value in struct.iter_unpack(
                entry, content[at : at + entries * struct.calcsize(entry)]
            ):
                if kind not in _TEXT_TYPES and numbers > _MOST_NUMBERS:
                    raise PictureError(f"has {numbers} numbers in its tag {tag}, where up to {_MOST_NUMBERS} are read")
                if tag in _TILE_SIDES and kind in (3, 4):
                    sides[tag - 322] = int.from_bytes(value[: _UNIT[kind]], "little" if order == "<" else "big")
            if sides[0] * sides[1] > _MOST_TILE:
                raise PictureError(
                    f"has tiles of {sides[1]}x{sides[0]} (height x width), where up to 4096x4096 are read"
                )
            at += entries * struct.calcsize(entry)
            (at,) = struct.unpack_from(link, content, at)
    except struct.error as error:
        raise PictureError("is a TIFF that is cut off or damaged") from error
    return len(seen)
