"""Datasets: labelled frames from known layouts, from a plain folder, and from a scene generator."""

from smp_deploy.datasets.base import Dataset, DatasetInfo, Example
from smp_deploy.datasets.camvid import CAMVID, CamVid
from smp_deploy.datasets.cityscapes import CITYSCAPES, Cityscapes
from smp_deploy.datasets.folder import Folder
from smp_deploy.datasets.gta5 import GTA5
from smp_deploy.datasets.label_images import Labels
from smp_deploy.datasets.scenes import SCENES, Scenes
from smp_deploy.datasets.sources import DATASETS, open_dataset

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "DATASETS",
    "GTA5",
    "SCENES",
    "CamVid",
    "Cityscapes",
    "Dataset",
    "DatasetInfo",
    "Example",
    "Folder",
    "Labels",
    "Scenes",
    "open_dataset",
]
