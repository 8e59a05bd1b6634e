"""What every dataset has: classes, frames with labels, and errors that name the file at fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from engines.errors import DatasetError, InputError
from smp_deploy.datasets.label_images import Colour, LabelColours, Labels, labels_from_file
from smp_deploy.images import frame_from_file


@dataclass(frozen=True)
class DatasetInfo:
    """What the class numbers of a dataset mean."""

    name: str
    classes: tuple[str, ...]
    colours: tuple[Colour, ...]
    """RGB in [0, 255], one for each class."""
    ignore_id: int
    """The label of pixels that neither training nor evaluation looks at; no class number."""
    thin: tuple[int, ...] = ()
    """Class numbers of the small and thin objects, averaged on their own (Tables 3 and 4 of the paper)."""

    def __post_init__(self) -> None:
        count = len(self.classes)
        if not count or count > 255:
            raise DatasetError(f"{self.name}: 1 to 255 classes are supported; received {count}")
        if not all(isinstance(name, str) for name in self.classes):
            raise DatasetError(f"{self.name}: class names are text; received {self.classes}")
        if len(set(self.classes)) != count:
            raise DatasetError(f"{self.name}: class names differ from each other; received {', '.join(self.classes)}")
        if len(self.colours) != count:
            raise DatasetError(f"{self.name}: {count} classes need {count} colours; received {len(self.colours)}")
        if 0 <= self.ignore_id < count or not 0 <= self.ignore_id <= 255:
            raise DatasetError(
                f"{self.name}: the ignored label lies outside the class numbers 0 to {count - 1} and inside "
                f"[0, 255]; received {self.ignore_id}"
            )
        if any(not 0 <= number < count for number in self.thin):
            raise DatasetError(f"{self.name}: thin classes are numbers 0 to {count - 1}; received {self.thin}")


@dataclass(frozen=True)
class Example:
    """One labelled frame."""

    name: str
    """Unique within its dataset; the stem of a file, where there is one."""
    image: NDArray[np.uint8]
    """``(H, W, 3)`` uint8 RGB in [0, 255]."""
    labels: Labels


class Dataset(Protocol):
    """Labelled frames in a fixed order; loading one is independent of all others."""

    @property
    def info(self) -> DatasetInfo:
        """What the class numbers mean."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Example:
        """The frame at ``index``. Raises :class:`FrameError` and :class:`DatasetError` for what cannot be used."""


@dataclass(frozen=True)
class FilePair:
    """A frame and its labels on disk."""

    name: str
    image: Path
    labels: Path


def load_pair(pair: FilePair, info: DatasetInfo, colours: LabelColours | None) -> Example:
    """A frame and its label image, of class numbers of ``info`` or of the colours that stand for them."""
    image, labels = frame_from_file(pair.image), labels_from_file(pair.labels, colours)
    check_same_size(pair, image, labels)
    check_known_ids(pair.labels, labels, info)
    return Example(pair.name, image, labels)


def check_same_size(pair: FilePair, image: NDArray[np.uint8], labels: Labels) -> None:
    """A frame and its labels have one size, each turned as its own EXIF says."""
    height, width = image.shape[:2]
    if (height, width) != labels.shape:
        hint = ""
        if (width, height) == labels.shape:
            hint = "; both are turned as their own EXIF says, and labels are drawn for the frame as it is then"
        raise DatasetError(
            f"{pair.labels} is {labels.shape[0]}x{labels.shape[1]} (height x width), but its frame {pair.image} "
            f"is {height}x{width}{hint}"
        )


def check_known_ids(path: Path, labels: Labels, info: DatasetInfo) -> None:
    """Every label is a class number or the ignored one."""
    known = np.zeros(256, dtype=bool)
    known[: len(info.classes)] = True
    known[info.ignore_id] = True
    if not known[labels].all():
        unknown = sorted({int(value) for value in np.unique(labels) if not known[value]})
        raise DatasetError(
            f"{path}: unknown label {_few(unknown)}; {info.name} has classes 0 to {len(info.classes) - 1} and "
            f"{info.ignore_id} for ignored pixels"
        )


def check_same_classes(source: Path, classes: Sequence[str], info: DatasetInfo) -> None:
    """Raises :class:`InputError` where a network's classes are not those of the dataset that is to judge it."""
    if tuple(classes) != info.classes:
        raise InputError(
            f"{source} has the classes {', '.join(classes)}, and {info.name} has {', '.join(info.classes)}; "
            "labels of one cannot be judged by the other"
        )


def require_directory(root: Path, relative: str, *, dataset: str, layout: str) -> Path:
    """A directory of a dataset's layout, or an error that shows the layout."""
    directory = root / relative
    if not directory.is_dir():
        raise DatasetError(f"{dataset}: {directory} is missing; {root} should hold {layout}")
    return directory


def require_frames(pairs: Sequence[FilePair], *, dataset: str, where: Path, pattern: str) -> tuple[FilePair, ...]:
    """At least one frame, and a label file for each."""
    if not pairs:
        raise DatasetError(f"{dataset}: no frames in {where}; expected files like {pattern}")
    missing = [pair for pair in pairs if not pair.labels.is_file()]
    if missing:
        raise DatasetError(
            f"{dataset}: {len(missing)} of {len(pairs)} frames in {where} have no labels; the first is "
            f"{missing[0].image.name}, whose labels should be {missing[0].labels}"
        )
    return tuple(pairs)


def _few(numbers: list[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:8])
    return f"{shown} and {len(numbers) - 8} more" if len(numbers) > 8 else shown
