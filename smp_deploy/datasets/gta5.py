"""GTA-5 (Richter et al. 2016): synthetic frames with pixel-accurate labels, the 19 classes of Cityscapes.

``images/00001.png`` and ``labels/00001.png``; a label image is a palette PNG whose indices are the label ids of
Cityscapes. There is no official validation set of the kind the paper uses: 500 of the 24,999 frames are chosen
at random (section 4.4), here by a hash of their names with a fixed seed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from engines.errors import DatasetError
from smp_deploy.datasets.base import (
    DatasetInfo,
    Example,
    FilePair,
    require_directory,
    require_frames,
)
from smp_deploy.datasets.cityscapes import CITYSCAPES, load_label_ids

SPLITS = ("train", "val")
VALIDATION_FRAMES = 500
VALIDATION_SEED = 2020

GTA5_INFO = DatasetInfo("gta5", CITYSCAPES.classes, CITYSCAPES.colours, CITYSCAPES.ignore_id, CITYSCAPES.thin)


class GTA5:
    """The training or validation part of GTA-5.

    Args:
        root: the directory with ``images`` and ``labels``.
        split: ``train`` or ``val``.
        validation_frames: how many frames the fixed seed takes out of training.
    """

    info = GTA5_INFO

    def __init__(self, root: Path, split: str, *, validation_frames: int = VALIDATION_FRAMES) -> None:
        if split not in SPLITS:
            raise DatasetError(f"gta5 has the splits {', '.join(SPLITS)}; received {split!r}")
        layout = "images/00001.png ... and labels/00001.png ..."
        frames = require_directory(root, "images", dataset="gta5", layout=layout)
        labels = require_directory(root, "labels", dataset="gta5", layout=layout)
        pairs = [FilePair(path.stem, path, labels / path.name) for path in sorted(frames.glob("*.png"))]
        pairs = list(require_frames(pairs, dataset="gta5", where=frames, pattern="00001.png"))
        if len(pairs) <= validation_frames:
            raise DatasetError(
                f"gta5: {frames} holds {len(pairs)} frames, and {validation_frames} are set aside for validation; "
                "at least one more is needed for training"
            )
        validation = {pair.name for pair in sorted(pairs, key=_lot)[:validation_frames]}
        self.pairs = tuple(pair for pair in pairs if (pair.name in validation) == (split == "val"))

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> Example:
        """The frame at ``index``, its labels as training ids."""
        return load_label_ids(self.pairs[index])


def _lot(pair: FilePair) -> bytes:
    """A frame's place in the draw: the same with every version of every library, whatever other frames there are."""
    return hashlib.sha256(f"{VALIDATION_SEED}:{pair.name}".encode()).digest()
