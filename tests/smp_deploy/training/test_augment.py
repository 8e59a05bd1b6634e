from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from converters.graphs.stages import IMAGENET_MEAN as MEAN
from converters.graphs.stages import IMAGENET_STD as STD
from engines.errors import InputError
from smp_deploy.datasets import Example
from smp_deploy.training import Augmentation
from smp_deploy.training.augment import augmented, padded_to, planes_from_image

IGNORE = 9


def _example(size: tuple[int, int] = (64, 96)) -> Example:
    """A frame whose red and green say where a pixel comes from, and whose label follows from them."""
    rows, columns = np.mgrid[: size[0], : size[1]].astype(np.uint8)
    image = np.stack([rows, columns, np.full(size, 128, np.uint8)], axis=-1)
    return Example("made", image, ((rows // 8 + columns // 8) % 5).astype(np.uint8))


def _pixels(x: torch.Tensor) -> np.ndarray:
    """Back from normalised planes to ``(h, w, 3)`` in [0, 255]."""
    return ((x.permute(1, 2, 0) * torch.tensor(STD) + torch.tensor(MEAN)) * 255).numpy()


def test_normalisation_by_plain_numpy():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    expected = (image / 255 - np.array(MEAN)) / np.array(STD)
    planes = planes_from_image(image)
    assert planes.is_contiguous()
    np.testing.assert_allclose(planes.permute(1, 2, 0).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_a_plain_crop_copies_pixels_and_keeps_labels_with_them(seed):
    example = _example()
    x, y = augmented(example, Augmentation(crop=(32, 64)), IGNORE, np.random.default_rng(seed))
    assert x.shape == (3, 32, 64)
    assert y.dtype == torch.int64
    pixels = _pixels(x).round().astype(int)
    rows, columns = pixels[..., 0], pixels[..., 1]
    np.testing.assert_array_equal(y.numpy(), (rows // 8 + columns // 8) % 5)
    steps = np.diff(columns, axis=1)
    assert set(np.unique(steps)) in ({1}, {-1})  # as it was, or flipped


def test_both_orientations_and_many_places_occur():
    draws = [augmented(_example(), Augmentation(crop=(32, 32)), IGNORE, np.random.default_rng(s))[0] for s in range(40)]
    corners = {tuple(_pixels(x)[0, 0].round().astype(int)) for x in draws}
    flipped = sum(_pixels(x)[0, 1, 1] < _pixels(x)[0, 0, 1] for x in draws)
    assert len(corners) > 30
    assert 8 < flipped < 32


def test_a_frame_smaller_than_the_crop_is_padded_with_zeros_and_ignored_labels():
    x, y = augmented(_example((40, 50)), Augmentation(crop=(64, 64)), IGNORE, np.random.default_rng(1))
    inside = y != IGNORE
    assert int(inside.sum()) == 40 * 50
    assert torch.equal(x[:, ~inside], torch.zeros(3, 64 * 64 - 40 * 50))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_scale_changes_sizes_and_brings_no_new_labels(factor):
    augmentation = Augmentation(crop=(64, 96), flip=0, scale=(factor, factor))
    x, y = augmented(_example(), augmentation, IGNORE, np.random.default_rng(3))
    inside = y != IGNORE
    assert set(y[inside].tolist()) <= set(range(5))
    assert int(inside.sum()) == min(64, 64 * factor) * min(96, 96 * factor)
    rows = np.where(inside.numpy(), _pixels(x)[..., 0], np.nan)
    per_row = np.nanmean(np.diff(rows, axis=0))
    assert per_row == pytest.approx(1 / factor, abs=0.1)


def test_colours_change_and_places_do_not():
    example = _example()
    plain = Augmentation(crop=(64, 96), flip=0)
    coloured = Augmentation(crop=(64, 96), flip=0, jitter=0.3)
    (x, y), (z, w) = (augmented(example, a, IGNORE, np.random.default_rng(5)) for a in (plain, coloured))
    assert torch.equal(y, w)
    assert not torch.allclose(x, z)
    pixels = _pixels(z)
    assert pixels.min() >= -1e-3
    assert pixels.max() <= 255.001


def test_padding_puts_the_map_where_it_is_told():
    x = torch.ones(1, 2, 3)
    padded = padded_to(x, (4, 6), (1, 2), value=7)
    expected = torch.full((1, 4, 6), 7.0)
    expected[0, 1:3, 2:5] = 1
    assert torch.equal(padded, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": (0, 64)}, r"crop= must be at least 1x1; received \(0, 64\)"),
        ({"flip": 1.5}, "flip= must be a probability; received 1.5"),
        ({"scale": (2.0, 1.0)}, "scale= must be factors of 0.01 to 100, low first"),
        ({"scale": (1.0, math.inf)}, r"scale= must be .*; received \(1.0, inf\)"),
        ({"scale": (math.nan, 1.0)}, "scale= must be"),
        ({"scale": (1e-300, 1.0)}, "scale= must be"),
        ({"jitter": 0.9}, r"jitter= must be in \[0, 0.75\)"),
        ({"aspect": -1.0}, "aspect= must be"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**changes)


@pytest.mark.parametrize("scale", [(0.01, 0.01), (100.0, 100.0), (0.01, 100.0)])
def test_the_widest_scales_give_crops(scale):
    widest = Augmentation(crop=(32, 64), scale=scale, aspect=0.99)
    for seed in range(50):
        x, y = augmented(_example(), widest, IGNORE, np.random.default_rng(seed))
        assert (x.shape, y.shape) == ((3, 32, 64), (32, 64))
        assert bool(x.isfinite().all())
