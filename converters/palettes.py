"""Class names and colours: of the usual road datasets, from files, or made up."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from pathlib import Path

from engines.bundle.gate import read_file
from engines.bundle.limits import CLASS_FILE_BYTES
from engines.bundle.manifest import ClassRecord
from engines.errors import InputError
from engines.text import check_name

_CITYSCAPES = """\
road 128 64 128
sidewalk 244 35 232
building 70 70 70
wall 102 102 156
fence 190 153 153
pole 153 153 153
traffic light 250 170 30
traffic sign 220 220 0
vegetation 107 142 35
terrain 152 251 152
sky 70 130 180
person 220 20 60
rider 255 0 0
car 0 0 142
truck 0 0 70
bus 0 60 100
train 0 80 100
motorcycle 0 0 230
bicycle 119 11 32
"""

_CAMVID = """\
sky 128 128 128
building 128 0 0
pole 192 192 128
road 128 64 128
pavement 60 40 222
tree 128 128 0
sign 192 128 128
fence 64 64 128
car 64 0 128
pedestrian 64 64 0
bicyclist 0 128 192
"""

_LINE = re.compile(r"(?P<name>.*?\S)\s+(?P<r>\d{1,3})[\s,]+(?P<g>\d{1,3})[\s,]+(?P<b>\d{1,3})")


def default_classes(count: int, *, usual: bool) -> tuple[tuple[ClassRecord, ...], str]:
    """Classes for a network whose classes nobody names, and whose they are, in words.

    Where ``usual``, Cityscapes' 19 classes or CamVid's 11; else, and for other counts, ``class 0``, ``class 1``, ... in
    colours far apart.
    """
    known = {19: ("Cityscapes", _CITYSCAPES), 11: ("CamVid", _CAMVID)}
    if usual and count in known:
        dataset, lines = known[count]
        classes = _classes_from_lines(lines.splitlines(), "the built-in classes")
        return tuple(classes), f"the {count} channels are taken for those of {dataset}"
    return tuple(classes_from_names([f"class {index}" for index in range(count)])), "they are numbered"


def classes_from_file(path: Path) -> list[ClassRecord]:
    """One class a line, ``name R G B`` with colours in [0, 255]; a line with a name alone gets a colour.

    Empty lines and lines that begin with ``#`` are skipped. Raises :class:`InputError`.
    """
    try:
        lines = read_file(path, CLASS_FILE_BYTES).decode("utf-8").splitlines()
    except (InputError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the class file {path}: {error}") from error
    classes = _classes_from_lines(lines, str(path))
    if not classes:
        raise InputError(f"the class file {path} names no class; write one 'name R G B' on each line")
    return classes


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
