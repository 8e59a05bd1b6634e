"""Where a dataset comes from: its name, its directory and a split."""

from __future__ import annotations

from pathlib import Path

from engines.errors import DatasetError
from smp_deploy.datasets.base import Dataset
from smp_deploy.datasets.camvid import CamVid
from smp_deploy.datasets.cityscapes import Cityscapes
from smp_deploy.datasets.folder import Folder
from smp_deploy.datasets.gta5 import GTA5
from smp_deploy.datasets.scenes import Scenes

DATASETS = ("camvid", "cityscapes", "gta5", "folder", "scenes")
"""Names for ``dataset=``."""


def open_dataset(name: str, root: Path | None, split: str) -> Dataset:
    """One split of a dataset; ``scenes`` is generated and needs no ``root``.

    Raises :class:`DatasetError` for an unknown name or split, and for a directory that is not in the layout.
    """
    if name == "scenes":
        if root is not None:
            raise DatasetError("scenes are generated and read from no directory; leave root= out")
        return Scenes(split)
    if name not in DATASETS:
        raise DatasetError(f"unknown dataset {name!r}; known are {', '.join(DATASETS)}")
    if root is None:
        raise DatasetError(f"the dataset {name} is read from a directory; name it with root=")
    if not root.is_dir():
        raise DatasetError(f"{name}: {root} is no directory")
    if name == "camvid":
        return CamVid(root, split)
    if name == "cityscapes":
        return Cityscapes(root, split)
    if name == "gta5":
        return GTA5(root, split)
    return Folder(root, split)
