"""CamVid road scenes (Brostow, Fauqueur and Cipolla 2008) as packaged with the SegNet tutorial.

Frames of 360x480 (height x width) in ``train``, ``val`` and ``test``; labels, class numbers or the colours
of the classes, under the same file names in ``trainannot``, ``valannot`` and ``testannot``. For research use.
"""

from __future__ import annotations

from pathlib import Path

from converters.palettes import CAMVID as PALETTE
from engines.errors import DatasetError
from smp_deploy.datasets.base import DatasetInfo, Example, FilePair, load_pair, require_directory, require_frames
from smp_deploy.datasets.label_images import LabelColours

SPLITS = ("train", "val", "test")

CAMVID = DatasetInfo("camvid", PALETTE.names, PALETTE.colours, ignore_id=11, thin=(2, 6, 9, 10))
COLOURS = LabelColours.of_classes(PALETTE.colours, PALETTE.void, CAMVID.ignore_id)

_LAYOUT = "train/, trainannot/, val/ and valannot/, labels under the names of their frames"


class CamVid:
    """One split of CamVid: ``root/<split>/*.png`` and ``root/<split>annot/*.png``."""

    info = CAMVID

    def __init__(self, root: Path, split: str) -> None:
        if split not in SPLITS:
            raise DatasetError(f"camvid has the splits {', '.join(SPLITS)}; received {split!r}")
        frames = require_directory(root, split, dataset="camvid", layout=_LAYOUT)
        labels = require_directory(root, f"{split}annot", dataset="camvid", layout=_LAYOUT)
        pairs = [FilePair(path.stem, path, labels / path.name) for path in sorted(frames.glob("*.png"))]
        self.pairs = require_frames(pairs, dataset="camvid", where=frames, pattern="0016E5_07959.png")

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> Example:
        """The frame at ``index``."""
        return load_pair(self.pairs[index], self.info, COLOURS)
