"""A plain folder of images and label PNGs with a small class file.

::

    root/classes.json
    root/train/images/*.png|jpg|...   root/train/labels/*.png
    root/val/images/...               root/val/labels/...

``classes.json`` names the classes in the order of their numbers; ``colours``, ``ignore_colours``, ``ignore`` and
``thin`` may be left out::

    {"classes": ["road", "pole"], "colours": [[128, 64, 128], [192, 192, 128]], "ignore": 255, "thin": ["pole"]}

Label images of colours are read where there are ``colours``, which may also be the name of a published palette:
``"cityscapes"``, ``"camvid"`` or ``"voc"``. Pixels of ``ignore_colours`` get the label ``ignore``. Splits are whatever
directories ``root`` has.
"""

from __future__ import annotations

import colorsys
import json
from pathlib import Path
from typing import Any

from converters.palettes import PALETTES, class_file_text
from engines.bundle.documents import json_of
from engines.errors import DatasetError, InputError
from engines.text import check_name
from smp_deploy.datasets.base import (
    DatasetInfo,
    Example,
    FilePair,
    load_pair,
    require_directory,
    require_frames,
)
from smp_deploy.datasets.label_images import Colour, LabelColours
from smp_deploy.decoding import SUFFIXES

CLASS_FILE = "classes.json"
_KEYS = {"classes", "colours", "ignore", "ignore_colours", "thin"}


class Folder:
    """One split of a user's own data."""

    def __init__(self, root: Path, split: str) -> None:
        self.info, self._colours = classes_from_class_file(root / CLASS_FILE)
        layout = f"{CLASS_FILE}, {split}/images and {split}/labels"
        frames = require_directory(root, f"{split}/images", dataset="folder", layout=layout)
        labels = require_directory(root, f"{split}/labels", dataset="folder", layout=layout)
        images = sorted(path for path in frames.iterdir() if path.suffix.lower() in SUFFIXES)
        pairs = [FilePair(path.stem, path, labels / f"{path.stem}.png") for path in images]
        names = [pair.name for pair in pairs]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise DatasetError(f"folder: {frames} holds several images named {twice!r}; they would share a label file")
        self.pairs = require_frames(pairs, dataset="folder", where=frames, pattern="frame.png or frame.jpg")

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> Example:
        """The frame at ``index``."""
        return load_pair(self.pairs[index], self.info, self._colours)


def classes_from_class_file(path: Path) -> tuple[DatasetInfo, LabelColours | None]:
    """Read ``classes.json``: the classes, and what colours of label images stand for, where it has ``colours``.

    Raises :class:`DatasetError` for a file that is missing or says something else.
    """
    document = _document(path)
    if not isinstance(document, dict) or not _are(document.get("classes"), str):
        raise DatasetError(f'{path}: expected {{"classes": [names]}}; received {json.dumps(document)[:80]}')
    if unknown := sorted(set(document) - _KEYS):
        raise DatasetError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(sorted(_KEYS))}")
    classes = tuple(document["classes"])
    for number, name in enumerate(classes):
        check_name(name, f"{path}, class {number}")
    ignore = document.get("ignore", 255)
    thin = document.get("thin", [])
    if not isinstance(ignore, int):
        raise DatasetError(f"{path}: 'ignore' is a label, a number; received {ignore!r}")
    if not _are(thin, str) or not set(thin) <= set(classes):
        raise DatasetError(f"{path}: 'thin' lists names of 'classes'; received {thin!r}")
    colours, void = _colours(path, document, len(classes))
    shown = colours or distinct_colours(len(classes))
    info = DatasetInfo("folder", classes, shown, ignore, tuple(classes.index(name) for name in thin))
    return info, None if colours is None else LabelColours.of_classes(colours, void, ignore)


def _document(path: Path) -> Any:
    try:
        return json_of(class_file_text(path))
    except FileNotFoundError as error:
        raise DatasetError(f'folder: {path} is missing; it names the classes: {{"classes": ["road", ...]}}') from error
    except InputError as error:
        raise DatasetError(f"folder: {error}") from error
    except OSError as error:
        raise DatasetError(f"folder: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        # Of ValueError are also bytes that are no UTF-8, and numbers of thousands of digits.
        raise DatasetError(f"{path}: not valid JSON: {error}") from error


def distinct_colours(count: int) -> tuple[Colour, ...]:
    """Colours that differ from their neighbours: hues a golden ratio apart."""
    colours = []
    for number in range(count):
        rgb = colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.65, 0.9 if number % 2 else 0.6)
        colours.append((round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)))
    return tuple(colours)


def _colours(path: Path, document: dict[str, Any], count: int) -> tuple[tuple[Colour, ...] | None, tuple[Colour, ...]]:
    """The colours of the classes, where there are some, and those of pixels that have none."""
    value, void = document.get("colours"), _listed(path, "ignore_colours", document.get("ignore_colours", []))
    if value is None:
        if void:
            raise DatasetError(f"{path}: 'ignore_colours' go with 'colours'")
        return None, ()
    if not isinstance(value, str):
        return _listed(path, "colours", value), void
    palette = PALETTES.get(value)
    if palette is None or len(palette.colours) != count:
        known = ", ".join(f'"{name}" with {len(held.colours)}' for name, held in PALETTES.items())
        raise DatasetError(
            f"{path}: 'colours' is a list, or the name of a palette of as many classes: {known}; received "
            f'"{value}" for {count}'
        )
    return palette.colours, (*palette.void, *void)


def _listed(path: Path, key: str, value: Any) -> tuple[Colour, ...]:
    if not isinstance(value, list) or not all(_are(colour, int) and len(colour) == 3 for colour in value):
        raise DatasetError(f"{path}: {key!r} lists [red, green, blue] in [0, 255]; received {json.dumps(value)[:80]}")
    colours = tuple((colour[0], colour[1], colour[2]) for colour in value)
    if any(not 0 <= channel <= 255 for colour in colours for channel in colour):
        raise DatasetError(f"{path}: {key!r} lie in [0, 255]; received {json.dumps(value)[:80]}")
    return colours


def _are(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)
