"""Cityscapes (Cordts et al. 2016), fine annotations, the 19 training classes.

``leftImg8bit/<split>/<city>/<name>_leftImg8bit.png`` and ``gtFine/<split>/<city>/<name>_gtFine_labelIds.png``.
The 34 label ids of the files become the 19 training ids; all others are ignored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engines.errors import DatasetError
from smp_deploy.datasets.base import (
    DatasetInfo,
    Example,
    FilePair,
    Labels,
    check_same_size,
    read_class_numbers,
    read_image,
    require_directory,
    require_frames,
)

SPLITS = ("train", "val", "test")
IGNORE = 255
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of each training id."""
LAST_LABEL_ID = 34
"""Ids run from 0 to 33; 34 stands for licence plates in GTA-5, whose id is -1 in Cityscapes."""

# fmt: off
_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)
_COLOURS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)
# fmt: on

CITYSCAPES = DatasetInfo("cityscapes", _CLASSES, _COLOURS, IGNORE, thin=(5, 6, 7, 11, 12, 17, 18))

_LAYOUT = "leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/*_gtFine_labelIds.png"
_FRAME = "_leftImg8bit.png"


class Cityscapes:
    """One split of Cityscapes."""

    info = CITYSCAPES

    def __init__(self, root: Path, split: str) -> None:
        if split not in SPLITS:
            raise DatasetError(f"cityscapes has the splits {', '.join(SPLITS)}; received {split!r}")
        frames = require_directory(root, f"leftImg8bit/{split}", dataset="cityscapes", layout=_LAYOUT)
        labels = require_directory(root, f"gtFine/{split}", dataset="cityscapes", layout=_LAYOUT)
        pairs = []
        for path in sorted(frames.glob(f"*/*{_FRAME}")):
            name = path.name.removesuffix(_FRAME)
            pairs.append(FilePair(name, path, labels / path.parent.name / f"{name}_gtFine_labelIds.png"))
        pattern = f"<city>/<city>_000000_000019{_FRAME}"
        self.pairs = require_frames(pairs, dataset="cityscapes", where=frames, pattern=pattern)

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> Example:
        """The frame at ``index``, its labels as training ids."""
        pair = self.pairs[index]
        image = read_image(pair.image)
        labels = train_ids_from_label_ids(read_class_numbers(pair.labels), pair.labels)
        check_same_size(pair, image, labels)
        return Example(pair.name, image, labels)


def train_ids_from_label_ids(label_ids: NDArray[np.uint8], path: Path) -> Labels:
    """Label ids 0 to 34 -> training ids 0 to 18, all else 255. ``path`` names the file in an error."""
    largest = int(label_ids.max(initial=0))
    if largest > LAST_LABEL_ID:
        raise DatasetError(
            f"{path}: unknown label id {largest}; the ids are 0 to {LAST_LABEL_ID}. "
            "Use the *_labelIds.png files: those with training ids or colours are other files"
        )
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[list(LABEL_IDS)] = np.arange(len(LABEL_IDS), dtype=np.uint8)
    return table[label_ids]
