"""Label images as people have them: class numbers of any depth, or the colours of classes, in one reader.

What a pixel means must be clear from the file and the class file alone; where it is not, the image is refused by the
name of what it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.errors import DatasetError
from smp_deploy.decoding import DamagedPicture, Picture, PictureError
from smp_deploy.images import Wanted, opened, turned

Labels: TypeAlias = NDArray[np.uint8]
"""``(H, W)`` uint8 class numbers; :attr:`DatasetInfo.ignore_id` where a pixel counts for nothing."""
Colour: TypeAlias = tuple[int, int, int]

_LARGEST = 255
_SHOWN = 4


@dataclass(frozen=True)
class LabelColours:
    """What the colours of a label image stand for."""

    meant: Mapping[Colour, int]
    """The label that a pixel of a colour gets; none for a colour of several classes."""
    possible: Mapping[Colour, frozenset[int]]
    """All labels that a palette shows in a colour."""

    @classmethod
    def of_classes(cls, colours: Sequence[Colour], void: Sequence[Colour], ignore_id: int) -> LabelColours:
        """One colour for each class number, and some for pixels that nobody labelled."""
        possible: dict[Colour, set[int]] = {}
        for number, colour in enumerate(colours):
            possible.setdefault(colour, set()).add(number)
        for colour in void:
            possible.setdefault(colour, set()).add(ignore_id)
        return cls(
            {colour: next(iter(numbers)) for colour, numbers in possible.items() if len(numbers) == 1},
            {colour: frozenset(numbers) for colour, numbers in possible.items()},
        )


def labels_from_file(path: Path, colours: LabelColours | None, wanted: Wanted | None = None) -> Labels:
    """A label image as ``(H, W)`` uint8 labels, turned as its EXIF says, like a frame.

    Taken are class numbers in grey of 1 to 16 bits, as they are stored and not as they are shown, with an alpha channel
    that is opaque or without; indices of a palette; and colours, where it is known what they stand for.

    Args:
        path: the file.
        colours: what colours stand for; ``None`` where the class file has none.
        wanted: the one size that is decoded; by default any.

    Raises:
        DatasetError: no image, damage, or pixels whose meaning is not clear.
        FrameError: another size than the wanted one.
        InputError: no regular file, or one that is too large.
    """
    try:
        with opened(path, wanted) as picture:
            image = turned(picture.image, path, wanted)
            return _labels(picture, image, path, colours)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file") from error
    except DamagedPicture as error:
        raise DatasetError(f"{path}: not a readable image: {error}") from error
    except PictureError as error:
        raise DatasetError(f"{path}: not a readable image: it {error}") from error
    except OSError as error:
        raise DatasetError(f"{path}: not a readable image: {error}") from error


def _labels(picture: Picture, image: Image.Image, path: Path, colours: LabelColours | None) -> Labels:
    samples = picture.samples
    if picture.lossy:
        raise DatasetError(
            f"{path} is a {picture.image.format}, which keeps pixels only nearly as they were: its labels would be "
            "others at every edge; save labels as PNG"
        )
    # Of 32 bits, a decoder tells numbers below 0; of 8 it does not.
    if samples.inverted or (samples.signed and image.mode != "I"):
        how = "white as 0 and black as the largest number" if samples.inverted else "signed numbers"
        raise DatasetError(f"{path}: a label image holds class numbers from 0 on; this one stores {how}")
    if image.mode == "P":
        return _indices(image, path, colours)
    if image.mode in ("LA", "RGBA"):
        # A decoder cuts 16 bits down where there is an alpha channel.
        if samples.largest > _LARGEST:
            raise DatasetError(f"{path} has an alpha channel and {samples.bits} bits a channel; save it without alpha")
        if image.getextrema()[-1] != (_LARGEST, _LARGEST):
            raise DatasetError(f"{path} has transparent pixels, which have no one label; flatten it first")
        image = image.convert(image.mode[:-1])
    if image.mode == "RGB":
        return _of_colours(image, samples.largest, path, colours)
    if image.mode in ("1", "L", "I", "I;16", "I;16B", "I;16L"):
        return _numbers(np.asarray(image), image.mode, samples.largest, path)
    raise DatasetError(
        f"{path}: a label image holds a class number for each pixel, or the colour of a class; this one has mode "
        f"{image.mode}"
    )


def _numbers(shown: NDArray[np.generic], mode: str, largest: int, path: Path) -> Labels:
    """Class numbers as they are stored: decoders stretch what has other depths than theirs to the full range."""
    values = shown.astype(np.int64)
    full = {"1": 1, "L": 255, "I": 65535}.get(mode, largest)
    if largest < full:
        values = (values * largest + full // 2) // full
    lowest, highest = int(values.min(initial=0)), int(values.max(initial=0))
    if highest > _LARGEST or lowest < 0:
        raise DatasetError(
            f"{path} has the number {lowest if lowest < 0 else highest}, and class numbers are 0 to {_LARGEST}: these "
            "are numbers of instances, or something else that is measured"
        )
    return values.astype(np.uint8)


def _indices(image: Image.Image, path: Path, colours: LabelColours | None) -> Labels:
    """The indices of a palette, unless its colours are those of classes with other numbers."""
    labels = np.array(image, np.uint8)
    if colours is None:
        return labels
    palette = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    used = [int(index) for index in np.unique(labels) if index < len(palette)]
    shown = {index: _colour(palette[index]) for index in used}
    if all(colour in colours.possible for colour in shown.values()) and any(
        index not in colours.possible[colour] for index, colour in shown.items()
    ):
        index, colour = next((i, c) for i, c in shown.items() if i not in colours.possible[c])
        meant = ", ".join(map(str, sorted(colours.possible[colour])))
        raise DatasetError(
            f"{path}: index {index} of its palette is shown as {_shown(colour)}, which is the colour of label {meant}: "
            "a program that packs colours numbered them anew. Save it as RGB, and its colours count"
        )
    return labels


def _of_colours(image: Image.Image, largest: int, path: Path, colours: LabelColours | None) -> Labels:
    if colours is None:
        raise DatasetError(
            f'{path} is a colour image, and nothing says what its colours stand for; give the class file "colours", '
            "or save class numbers in one channel"
        )
    if largest != _LARGEST:
        raise DatasetError(f"{path} is a colour image with values up to {largest}; colours of classes have 8 bits")
    pixels = np.asarray(image).astype(np.uint32)
    found, where = np.unique(pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2], return_inverse=True)
    named = [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in found]
    unknown = [colour for colour in named if colour not in colours.meant]
    if unknown:
        several = [colour for colour in unknown if colour in colours.possible]
        counts = dict(zip(named, np.bincount(where.ravel(), minlength=len(named)).tolist(), strict=True))
        raise DatasetError(f"{path}: {_refused(several or unknown, counts)}" + ("" if several else _HINT))
    table = np.array([colours.meant[colour] for colour in named], np.uint8)
    return table[where].reshape(pixels.shape[:2])


_HINT = '; "ignore_colours" in a class file lists the colours that count for nothing'


def _refused(colours: Sequence[Colour], counts: Mapping[Colour, int]) -> str:
    """What is said of colours that give no label, and of how many pixels that is."""
    listed = " and ".join(_shown(colour) for colour in colours[:_SHOWN])
    more = f" and {len(colours) - _SHOWN} more" if len(colours) > _SHOWN else ""
    pixels = f"{sum(counts[colour] for colour in colours)} of {sum(counts.values())} pixels"
    return f"{pixels} have a colour that is that of no class, or of several: {listed}{more}"


def _colour(values: NDArray[np.uint8]) -> Colour:
    return int(values[0]), int(values[1]), int(values[2])


def _shown(colour: Colour) -> str:
    return f"({colour[0]}, {colour[1]}, {colour[2]})"
