"""Image files: in as frames, out as pictures."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from engines.errors import FrameError, InputError
from engines.schedules.phases import Size
from smp_deploy.decoding import SUFFIXES, DamagedPicture, Picture, PictureError, opened_picture

_MEANING = {"RGB", "L", "P", "1"}
"""Pillow's modes that mean one thing as RGB; with an alpha channel only where it is opaque throughout."""
_ALPHA = {"RGBA": "RGB", "LA": "L"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What the orientations of EXIF ask for."""
_BAND = 256
"""Rows that are converted at a time."""
_ON_ITS_SIDE = {5, 6, 7, 8}
"""Those that exchange height and width."""
_LARGEST = 255
"""Of 8 bits a channel."""


@dataclass(frozen=True)
class Wanted:
    """The one size that frames are to have: pictures of another are not decoded."""

    size: Size
    rule: str
    """What a message about another size ends with."""

    @classmethod
    def by_bundle(cls, size: Size, hint: str = "") -> Wanted:
        """The size that a bundle was exported for."""
        return cls(size, f", the bundle takes {size[0]}x{size[1]}; export for that size{hint}")

    def check(self, name: object, received: Size) -> None:
        """Raise :class:`FrameError` for another size ``(height, width)``."""
        if received != self.size:
            raise FrameError(f"{name} is {received[0]}x{received[1]} (height x width){self.rule}")

    def check_header(self, name: object, received: Size) -> None:
        """The same, of a picture that may yet be turned onto its side."""
        if received != self.size[::-1]:
            self.check(name, received)


def frame_from_file(path: Path, wanted: Wanted | None = None) -> NDArray[np.uint8]:
    """Read a frame ``(H, W, 3)`` uint8 RGB: the one reader of every command, for frames of users and of datasets.

    Grey, palette and bilevel images become RGB, an opaque alpha channel is dropped, and the orientation of a
    camera is applied. Raises :class:`FrameError` for another size than the wanted one, before its pixels are decoded;
    without one, for more pixels than :data:`engines.bundle.limits.PICTURE_PIXELS`; and for anything whose meaning is
    not clear: more than 8 bits a channel or floats, transparency, CMYK and other colour spaces, several frames, and
    what is no image at all.
    """
    with _opened_frame(path, wanted) as image:
        return _array(turned(image, path, wanted), path)


def check_header(path: Path, wanted: Wanted | None) -> None:
    """Raise :class:`FrameError` for a file whose header tells that it is no frame, or none of the wanted size.

    Cheap: pixels are decoded only of an image of the wanted size that lies on its side. Without a size any will do that
    :func:`frame_from_file` takes.
    """
    with _opened_frame(path, wanted) as image:
        size = (image.height, image.width)
        # A square is of its size however it is turned; a PNG may say behind its pixels how it is.
        upright = wanted is None or (size == wanted.size and _orientation(image) not in _ON_ITS_SIDE)
    if not upright and size[0] != size[1]:
        frame_from_file(path, wanted)


@contextmanager
def opened(path: Path, wanted: Wanted | None) -> Iterator[Picture]:
    """A picture that is of the wanted size, or of that on its side. Raises as :func:`decoding.opened_picture`."""
    check = None if wanted is None else lambda size: wanted.check_header(path, size)
    with opened_picture(path, check) as picture:
        yield picture


def turned(image: Image.Image, path: Path, wanted: Wanted | None) -> Image.Image:
    """An open image, decoded and turned as its EXIF says. Raises :class:`FrameError` for another size than wanted."""
    image.load()
    # Only now: what a PNG says behind its pixels is read with them.
    orientation = _orientation(image)
    exchanged = orientation in _ON_ITS_SIDE
    if wanted is not None:
        wanted.check(path, (image.width, image.height) if exchanged else (image.height, image.width))
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def check_size(name: object, frame: NDArray[np.uint8], size: Size) -> None:
    """Raise :class:`FrameError` unless the frame ``(H, W, 3)`` is of the bundle's ``size``."""
    Wanted.by_bundle(size).check(name, (frame.shape[0], frame.shape[1]))


def resized(frame: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """A frame resized to ``size``, bilinearly with antialiasing."""
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BILINEAR), np.uint8)


def resized_labels(labels: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Labels resized to ``size`` by nearest neighbour: no class appears that was not there."""
    return np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST), np.uint8)


def image_files(arguments: Sequence[str]) -> list[Path]:
    """The image files that arguments name: files, folders (their images, not their folders') and patterns.

    In the order of the arguments, sorted within each, every file once. Raises :class:`InputError` for an
    argument that names nothing.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            matches = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES)
        elif path.exists():
            matches = [path]
        else:
            matches = sorted(Path(match) for match in glob.glob(argument, recursive=True))  # noqa: PTH207 - absolute patterns
        if not matches:
            what = "holds no image" if path.is_dir() else "is no file, folder or pattern that names an image"
            raise InputError(f"{argument} {what}")
        found.update(dict.fromkeys(matches))
    return list(found)


@contextmanager
def _opened_frame(path: Path, wanted: Wanted | None) -> Iterator[Image.Image]:
    """An image whose header is a frame's, its pixels not yet read; damage found in the block is a ``FrameError``."""
    try:
        with opened(path, wanted) as picture:
            image, samples = picture.image, picture.samples
            # Pillow cuts 16-bit colour down without a word.
            if samples.largest > _LARGEST and image.mode != "F":
                raise FrameError(f"{path} has {samples.bits} bits a channel; a frame has 8: convert it first")
            if samples.signed:
                raise FrameError(f"{path} has signed numbers for pixels; a frame has 0 to 255: convert it first")
            if image.mode not in _ALPHA:
                _check_meaning(image, path)
            yield image
    except DamagedPicture as error:
        raise FrameError(f"cannot read the image {path}: {error}") from error
    except PictureError as error:
        raise FrameError(f"{path} {error}") from error
    except FrameError:
        raise
    except InputError as error:
        raise FrameError(f"cannot read the image: {error}") from error
    except OSError as error:
        raise FrameError(f"cannot read the image {path}: {error.strerror or error}") from error


def _orientation(image: Image.Image) -> int:
    """How EXIF says that an image is turned, as far as is read of it; 1 is upright."""
    # A PNG's own getexif would decode the pixels.
    found = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    return found if isinstance(found, int) else 1


def _array(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """The pixels in memory of their own, a band of rows at a time: Pillow copies what it converts three times over."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        pixels[top:bottom] = np.asarray(_rgb(image.crop((0, top, width, bottom)), path))
    return pixels


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in _ALPHA:
        if image.getextrema()[-1] != (255, 255):
            raise FrameError(f"{path} has transparent pixels, which have no one colour; flatten it first")
        image = image.convert(_ALPHA[image.mode])
    # Once more: the header does not tell everything.
    _check_meaning(image, path)
    return image.convert("RGB")


def _check_meaning(image: Image.Image, path: Path) -> None:
    if "transparency" in image.info:
        raise FrameError(f"{path} has transparent pixels, which have no one colour; flatten it first")
    if image.mode not in _MEANING:
        raise FrameError(
            f"{path} has pixels of mode {image.mode!r}; a frame has 8 bits a channel, RGB or grey: convert it first"
        )
