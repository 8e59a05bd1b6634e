from __future__ import annotations

import numpy as np
import pytest

from engines.errors import DatasetError
from smp_deploy.datasets import CITYSCAPES, Cityscapes, open_dataset
from smp_deploy.datasets.cityscapes import train_ids_from_label_ids

from . import trees

# From the table of labels that Cityscapes publishes: name, id, train id.
PUBLISHED = {
    "unlabeled": (0, 255),
    "ground": (6, 255),
    "road": (7, 0),
    "sidewalk": (8, 1),
    "building": (11, 2),
    "fence": (13, 4),
    "guard rail": (14, 255),
    "pole": (17, 5),
    "polegroup": (18, 255),
    "traffic light": (19, 6),
    "traffic sign": (20, 7),
    "sky": (23, 10),
    "person": (24, 11),
    "car": (26, 13),
    "caravan": (29, 255),
    "train": (31, 16),
    "bicycle": (33, 18),
}


def test_label_ids_become_training_ids(tmp_path):
    dataset = Cityscapes(trees.cityscapes(tmp_path), "train")
    labels = dataset.load(0).labels
    ids = np.resize(np.arange(34), trees.SIZE)
    for name, (label_id, train_id) in PUBLISHED.items():
        assert set(labels[ids == label_id].tolist()) == {train_id}, name
        if train_id != 255:
            assert CITYSCAPES.classes[train_id] == name


def test_frames_of_all_cities_come_in_order(tmp_path):
    dataset = open_dataset("cityscapes", trees.cityscapes(tmp_path), "train")
    names = [dataset.load(index).name for index in range(len(dataset))]
    assert names == [f"{city}_{number:06d}_000019" for city in ("aachen", "zurich") for number in (0, 1)]


def test_a_missing_annotation_directory_is_named(tmp_path):
    root = trees.cityscapes(tmp_path)
    (root / "gtFine").rename(root / "gtCoarse")
    with pytest.raises(DatasetError, match=r"gtFine/val is missing; .* should hold leftImg8bit/<split>/<city>"):
        Cityscapes(root, "val")


def test_a_missing_label_file_is_named(tmp_path):
    root = trees.cityscapes(tmp_path)
    (root / "gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 2 frames .*lindau_000001_000019_gtFine_labelIds.png"):
        Cityscapes(root, "val")


def test_a_frames_directory_without_cities_is_an_error(tmp_path):
    for part in ("leftImg8bit/val", "gtFine/val"):
        (tmp_path / part).mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"no frames in .*expected files like <city>"):
        Cityscapes(tmp_path, "val")


def test_a_file_of_other_ids_is_named():
    ids = np.array([[7, 255]], np.uint8)
    with pytest.raises(DatasetError, match=r"frame.png: unknown label id 255; the ids are 0 to 34"):
        train_ids_from_label_ids(ids, "frame.png")


def test_thin_classes_are_those_of_table_3():
    thin = [CITYSCAPES.classes[number] for number in CITYSCAPES.thin]
    assert thin == ["pole", "traffic light", "traffic sign", "person", "rider", "motorcycle", "bicycle"]
