"""Class names and colours: of the usual road datasets, from files, or made up."""

from __future__ import annotations

import codecs
import colorsys
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from engines.bundle.gate import read_file
from engines.bundle.limits import CLASS_FILE_BYTES
from engines.bundle.manifest import ClassRecord
from engines.errors import InputError
from engines.text import check_name

Colour: TypeAlias = tuple[int, int, int]
"""RGB in [0, 255]."""


@dataclass(frozen=True)
class Palette:
    """The classes of a published dataset in the order of their numbers, and the colours that its pictures have."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    void: tuple[Colour, ...]
    """Of pixels that have none of these classes."""

    @property
    def records(self) -> list[ClassRecord]:
        """The classes for a manifest."""
        return [ClassRecord(name=name, color=colour) for name, colour in zip(self.names, self.colours, strict=True)]


def _voc_colour(number: int) -> Colour:
    """The bits of a number, dealt to the channels in turn, the lowest to the highest of each."""
    channels = [0, 0, 0]
    for bit in range(8):
        channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]


# fmt: off
CITYSCAPES = Palette(
    names=(
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
    colours=(
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0),
        (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
    # Unlabelled, dynamic, ground, parking, rail track, guard rail, bridge, tunnel, caravan, trailer; static of GTA-5.
    void=(
        (0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100),
        (150, 120, 90), (0, 0, 90), (0, 0, 110), (20, 20, 20),
    ),
)
CAMVID = Palette(
    names=(
        "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
    ),
    colours=(
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
        (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
    void=((0, 0, 0),),
)
VOC = Palette(
    names=(
        "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
        "dining table", "dog", "horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv/monitor",
    ),
    colours=tuple(_voc_colour(number) for number in range(21)),
    void=(_voc_colour(255),),
)
# fmt: on
PALETTES = {"cityscapes": CITYSCAPES, "camvid": CAMVID, "voc": VOC}
"""By the names that a class file may give in the place of colours."""

_LINE = re.compile(r"(?P<name>.*?\S)\s+(?P<r>\d{1,3})[\s,]+(?P<g>\d{1,3})[\s,]+(?P<b>\d{1,3})")


def default_classes(count: int, *, usual: bool) -> tuple[tuple[ClassRecord, ...], str]:
    """Classes for a network whose classes nobody names, and whose they are, in words.

    Where ``usual``, Cityscapes' 19 classes or CamVid's 11; else, and for other counts, ``class 0``, ``class 1``, ... in
    colours far apart.
    """
    known = {19: ("Cityscapes", CITYSCAPES), 11: ("CamVid", CAMVID)}
    if usual and count in known:
        dataset, palette = known[count]
        return tuple(palette.records), f"the {count} channels are taken for those of {dataset}"
    return tuple(classes_from_names([f"class {index}" for index in range(count)])), "they are numbered"


def classes_from_file(path: Path) -> list[ClassRecord]:
    """One class a line, ``name R G B`` with colours in [0, 255]; a line with a name alone gets a colour.

    Empty lines and lines that begin with ``#`` are skipped. Raises :class:`InputError`.
    """
    try:
        lines = class_file_text(path).splitlines()
    except (InputError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the class file {path}: {error}") from error
    classes = _classes_from_lines(lines, str(path))
    if not classes:
        raise InputError(f"the class file {path} names no class; write one 'name R G B' on each line")
    return classes


def class_file_text(path: Path) -> str:
    """A class file's text, which editors write with a mark of byte order or without.

    Raises :class:`InputError` as :func:`engines.bundle.gate.read_file`, and ``UnicodeDecodeError``, which is a
    ``ValueError``.
    """
    content = read_file(path, CLASS_FILE_BYTES)
    # Text of Windows editors. A mark of 32 bits begins as one of 16.
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    return content.decode("utf-8-sig")


def classes_from_names(names: Sequence[str]) -> list[ClassRecord]:
    """Classes of these names in colours far apart. Raises :class:`InputError` as :func:`engines.text.check_name`."""
    for index, name in enumerate(names):
        check_name(name, f"class {index}")
    return [ClassRecord(name=name, color=_made_up_color(index)) for index, name in enumerate(names)]


def _classes_from_lines(lines: list[str], where: str) -> list[ClassRecord]:
    classes: list[ClassRecord] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        name = match["name"] if match else line.strip()
        check_name(name, f"{where}, line {number}")
        if match is None:
            classes.append(ClassRecord(name=name, color=_made_up_color(len(classes))))
            continue
        red, green, blue = (int(match[channel]) for channel in "rgb")
        if max(red, green, blue) > 255:
            raise InputError(f"{where}, line {number}: a colour lies in [0, 255]; received {red} {green} {blue}")
        classes.append(ClassRecord(name=name, color=(red, green, blue)))
    return classes


def _made_up_color(index: int) -> tuple[int, int, int]:
    # Steps of the golden ratio on the hue circle keep any number of neighbours apart.
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)
