"""Image files: in as frames, out as pictures."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from engines.errors import FrameError, InputError
from engines.schedules.phases import Size

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
_MEANING = {"RGB", "L", "P", "1"}
"""Pillow's modes that mean one thing as RGB; with an alpha channel only where it is opaque throughout."""
_ALPHA = {"RGBA": "RGB", "LA": "L"}
_ON_ITS_SIDE = {5, 6, 7, 8}
"""The orientations of EXIF that exchange height and width."""


def frame_from_file(path: Path) -> NDArray[np.uint8]:
    """Read a frame ``(H, W, 3)`` uint8 RGB.

    Grey, palette and bilevel images become RGB, an opaque alpha channel is dropped, and the orientation of a
    camera is applied. Raises :class:`FrameError` for anything whose meaning is not clear: 16 bits or floats a
    channel, transparency, CMYK and other colour spaces, several frames, and what is no image at all.
    """
    with _opened(path) as image:
        turned: Any = ImageOps.exif_transpose(image)
        # A copy: Pillow's own buffer is read-only.
        return np.array(_rgb(turned, path), np.uint8)


def check_header(path: Path, size: Size | None, hint: str = "") -> None:
    """Raise :class:`FrameError` for a file whose header tells that it is no frame, or none of the bundle's ``size``.

    Cheap: pixels are read only of an image that is about to be refused. Without a ``size`` any will do.
    """
    with _opened(path) as image:
        fits = size is None or _turned_size(image) == size
    if size is not None and not fits:
        # A PNG may say behind its pixels how it is turned.
        check_size(path, frame_from_file(path), size, hint)


def check_size(name: object, frame: NDArray[np.uint8], size: Size, hint: str = "") -> None:
    """Raise :class:`FrameError` unless the frame ``(H, W, 3)`` is of the bundle's ``size``."""
    if frame.shape[:2] != size:
        raise FrameError(
            f"{name} is {frame.shape[0]}x{frame.shape[1]} (height x width), "
            f"the bundle takes {size[0]}x{size[1]}; export for that size{hint}"
        )


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
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header is a frame's, its pixels not yet read; damage found in the block is a ``FrameError``."""
    try:
        with Image.open(path) as image:
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise FrameError(f"{path} holds {frames} images; save the one that is meant")
            if _is_deep(image):
                raise FrameError(f"{path} has 16 bits a channel; a frame has 8: convert it first")
            if image.mode not in _ALPHA:
                _check_meaning(image, path)
            yield image
    except UnidentifiedImageError as error:
        raise FrameError(f"{path} is no image that can be read") from error
    except Image.DecompressionBombError as error:
        raise FrameError(f"{path} is too large to be a frame: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        # Pillow reports damage as any of these.
        reason = getattr(error, "strerror", None) or error
        raise FrameError(f"cannot read the image {path}: {reason}") from error


def _turned_size(image: Image.Image) -> Size:
    """Height and width as a camera's orientation turns them, as far as the header tells."""
    # A PNG's own getexif would read the pixels.
    turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation) in _ON_ITS_SIDE
    return (image.width, image.height) if turned else (image.height, image.width)


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has more than 8 bits a channel: Pillow cuts 16-bit colour down without a word."""
    return any(";16" in str(tile) for tile in getattr(image, "tile", ()))


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
