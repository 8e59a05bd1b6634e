"""Cityscapes (Cordts et al. 2016), fine annotations, the 19 training classes.

``leftImg8bit/<split>/<city>/<name>_leftImg8bit.png`` and ``gtFine/<split>/<city>/<name>_gtFine_labelIds.png``.
The 34 label ids of the files become the 19 training ids; all others are ignored.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converters.palettes import CITYSCAPES as PALETTE
from engines.errors import DatasetError
from smp_deploy.datasets.base import (
    DatasetInfo,
    Example,
    FilePair,
    check_same_size,
    require_directory,
    require_frames,
)
from smp_deploy.datasets.label_images import LabelColours, Labels, labels_from_file
from smp_deploy.images import frame_from_file

SPLITS = ("train", "val", "test")
IGNORE = 255
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label id of each training id."""
LAST_LABEL_ID = 34
"""Ids run from 0 to 33; 34 stands for licence plates in GTA-5, whose id is -1 in Cityscapes."""

_OTHER_COLOURS = {
    (0, 0, 0): (0, 1, 2, 3, 4), (20, 20, 20): (4,), (111, 74, 0): (5,), (81, 0, 81): (6,), (250, 170, 160): (9,),
    (230, 150, 140): (10,), (180, 165, 180): (14,), (150, 100, 100): (15,), (150, 120, 90): (16,), (0, 0, 90): (29,),
    (0, 0, 110): (30,), (153, 153, 153): (18,), (0, 0, 142): (34,),
}  # fmt: skip
"""The colours of the label ids that become no training id. The last two, groups of poles and licence plates, share
theirs with poles and cars, which are meant."""

CITYSCAPES = DatasetInfo("cityscapes", PALETTE.names, PALETTE.colours, IGNORE, thin=(5, 6, 7, 11, 12, 17, 18))

_MEANT = {
    **{colour: ids[0] for colour, ids in _OTHER_COLOURS.items()},
    **dict(zip(PALETTE.colours, LABEL_IDS, strict=True)),
}
LABEL_COLOURS = LabelColours(
    _MEANT, {colour: frozenset((label, *_OTHER_COLOURS.get(colour, ()))) for colour, label in _MEANT.items()}
)
"""Of label ids, in colour images of Cityscapes and GTA-5."""

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
        return load_label_ids(self.pairs[index])


def load_label_ids(pair: FilePair) -> Example:
    """A frame and its label ids, in numbers or colours, as training ids."""
    image = frame_from_file(pair.image)
    labels = train_ids_from_label_ids(labels_from_file(pair.labels, LABEL_COLOURS), pair.labels)
    check_same_size(pair, image, labels)
    return Example(pair.name, image, labels)


def train_ids_from_label_ids(label_ids: NDArray[np.uint8], path: Path) -> Labels:
    """Label ids 0 to 34 -> training ids 0 to 18, all else 255. ``path`` names the file in an error."""
    largest = int(label_ids.max(initial=0))
    if largest > LAST_LABEL_ID:
        raise DatasetError(
            f"{path}: unknown label id {largest}; the ids are 0 to {LAST_LABEL_ID}. "
            "Use the *_labelIds.png files: those with training ids are other files"
        )
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[list(LABEL_IDS)] = np.arange(len(LABEL_IDS), dtype=np.uint8)
    return table[label_ids]
