from __future__ import annotations

import numpy as np
import pytest

from engines.errors import DatasetError
from smp_deploy.datasets import GTA5, open_dataset

from . import trees


def _names(dataset):
    return {pair.name for pair in dataset.pairs}


def test_a_fixed_seed_parts_training_from_validation(tmp_path):
    root = trees.gta5(tmp_path)
    train, val = (GTA5(root, split, validation_frames=4) for split in ("train", "val"))
    assert (len(train), len(val)) == (8, 4)
    assert not _names(train) & _names(val)
    assert _names(val) == _names(GTA5(root, "val", validation_frames=4))
    # The choice is a promise to everyone who compares figures: it never changes.
    assert _names(val) == {"00003", "00005", "00007", "00012"}


def test_palette_indices_are_label_ids(tmp_path):
    labels = GTA5(trees.gta5(tmp_path), "val", validation_frames=4).load(0).labels
    ids = np.resize(np.arange(35), (16, 16))
    assert set(labels[ids == 17].tolist()) == {5}  # pole
    assert set(labels[ids == 33].tolist()) == {18}  # bicycle
    assert set(labels[ids == 34].tolist()) == {255}  # licence plate


def test_too_few_frames_to_set_500_aside(tmp_path):
    with pytest.raises(DatasetError, match="holds 12 frames, and 500 are set aside for validation"):
        open_dataset("gta5", trees.gta5(tmp_path), "train")


def test_missing_labels_are_named(tmp_path):
    root = trees.gta5(tmp_path)
    (root / "labels" / "00007.png").unlink()
    with pytest.raises(DatasetError, match=r"1 of 12 frames .*the first is 00007.png"):
        GTA5(root, "train", validation_frames=4)


def test_there_is_no_test_split(tmp_path):
    with pytest.raises(DatasetError, match="gta5 has the splits train, val; received 'test'"):
        GTA5(trees.gta5(tmp_path), "test")


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(DatasetError, match="images is missing"):
        GTA5(tmp_path, "val")
