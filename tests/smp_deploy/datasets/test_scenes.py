from __future__ import annotations

import numpy as np
import pytest

from engines.errors import DatasetError
from smp_deploy.datasets import SCENES, Scenes, open_dataset


def test_a_scene_is_a_function_of_its_split_and_number():
    first, again = Scenes("train").load(5), Scenes("train", count=6).load(5)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)
    assert not np.array_equal(first.image, Scenes("val").load(5).image)
    assert not np.array_equal(first.image, Scenes("train").load(6).image)


def test_every_class_occurs_and_thin_ones_are_thin():
    dataset = Scenes("train", count=20)
    counts = sum(np.bincount(dataset.load(index).labels.ravel(), minlength=9) for index in range(20))
    assert len(counts) == len(SCENES.classes) == 9
    assert (counts > 0).all()
    thin = counts[list(SCENES.thin)] / counts.sum()
    assert (thin < 0.02).all()
    assert counts[SCENES.classes.index("road")] / counts.sum() > 0.05


def test_poles_are_a_few_pixels_wide():
    dataset = Scenes("train", size=(192, 256), count=20)
    pole = SCENES.classes.index("pole")
    runs = []
    for index in range(20):
        padded = np.pad(dataset.load(index).labels == pole, ((0, 0), (1, 1))).astype(int)
        steps = np.diff(padded, axis=1)
        runs.extend((np.argwhere(steps == -1)[:, 1] - np.argwhere(steps == 1)[:, 1]).tolist())
    assert np.median(runs) <= 3


def test_labels_are_exact_to_the_pixel():
    """Where the labels change from sky to building, the image changes too."""
    example = Scenes("train", size=(192, 256)).load(0)
    grey = example.image.astype(float).mean(2)
    sky, building = (SCENES.classes.index(name) for name in ("sky", "building"))
    above, below = example.labels[:-1], example.labels[1:]
    edge = (above == sky) & (below == building)
    inside = (above == sky) & (below == sky)
    change = np.abs(np.diff(grey, axis=0))
    assert edge.any()
    assert change[edge].mean() > 3 * change[inside].mean()


@pytest.mark.parametrize("size", [(32, 32), (96, 160), (100, 37)])
def test_sizes(size):
    example = Scenes("val", size=size, count=2).load(1)
    assert example.image.shape == (*size, 3)
    assert example.labels.shape == size
    assert example.image.dtype == example.labels.dtype == np.uint8


def test_what_cannot_be_drawn():
    with pytest.raises(DatasetError, match="at least 32x32 pixels; received 16x64"):
        Scenes("train", size=(16, 64))
    with pytest.raises(DatasetError, match="scenes has the splits train, val"):
        open_dataset("scenes", None, "test")
    with pytest.raises(IndexError):
        Scenes("val", count=2).load(2)
