"""Mean and deviation in the conventions that people use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from converters.graphs.stages import IMAGENET_MEAN, IMAGENET_STD, Normalization, Normalize
from converters.normalization import normalization_of
from engines.errors import InputError
from smp_deploy.cli.errors import in_options

BYTES_MEAN, BYTES_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
IMAGENET = "Probably meant: mean=0.485 0.456 0.406 std=0.229 0.224 0.225"


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        (IMAGENET_MEAN, IMAGENET_STD),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ((0, 0, 0), (1, 1, 1)),
        ((0, 0, 0), (1 / 255, 1 / 255, 1 / 255)),
        # CamVid's and Cityscapes', which are no figures of ImageNet's turned round.
        ((0.4119, 0.4251, 0.4327), (0.3013, 0.3067, 0.3082)),
        ((0.2869, 0.3251, 0.2839), (0.1870, 0.1902, 0.1872)),
        ((0.485, 0.456, 0.406), (1 / 255, 1 / 255, 1 / 255)),
    ],
)
def test_figures_of_values_between_0_and_1_are_taken(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    assert normalization_of(mean, std) == Normalization(mean, std)
    assert normalization_of(np.array(mean), list(std)) == Normalization(mean, std)


@pytest.mark.parametrize(
    ("mean", "std", "why", "meant"),
    [
        (BYTES_MEAN, BYTES_STD, "mean= and std= are of values in [0, 1]", IMAGENET),
        (IMAGENET_MEAN, BYTES_STD, "mean= and std= are of values in [0, 1]", IMAGENET),
        (BYTES_MEAN, IMAGENET_STD, "mean= and std= are of values in [0, 1]", IMAGENET),
        # Factors: of values in [0, 255], and of those in [0, 1].
        (BYTES_MEAN, [1 / value for value in BYTES_STD], "mean= and std= are of values in [0, 1]", IMAGENET),
        (IMAGENET_MEAN, [1 / value for value in IMAGENET_STD], "mean= and std= are of values in [0, 1]", IMAGENET),
        ((0, 0, 0), (255, 255, 255), "values in [0, 1]", "Probably meant: mean=0 0 0 std=1 1 1"),
        ((127.5,) * 3, (127.5,) * 3, "values in [0, 1]", "Probably meant: mean=0.5 0.5 0.5 std=0.5 0.5 0.5"),
        # As Caffe has it: a mean is taken off, nothing is divided by.
        ((127.5,) * 3, (1,) * 3, "values in [0, 1]", "mean=0.5 0.5 0.5 std=0.0039216 0.0039216 0.0039216"),
        (
            IMAGENET_MEAN[::-1],
            IMAGENET_STD[::-1],
            "frames are R, G, B, and these are ImageNet's figures in the",
            IMAGENET,
        ),
        (BYTES_MEAN[::-1], BYTES_STD[::-1], "values in [0, 1], and frames are R, G, B, and these are", IMAGENET),
        (
            (104.00698793, 116.66876762, 122.67891434),
            (1, 1, 1),
            "values in [0, 1], and frames are R, G, B, and these are",
            "mean=0.48109 0.45752 0.40787 std=0.0039216 0.0039216 0.0039216",
        ),
        (IMAGENET_STD, IMAGENET_MEAN, "these are ImageNet's, one in the other's place", IMAGENET),
        ((-0.1, 0, 0), (1, 1, 1), "no mean of them is negative", ""),
        ((0, 0, 0), (1e-7, 1, 1), "std= is at least 1e-06", ""),
        ((0, 0, 0), (-1, 1, 1), "std= above zero", ""),
        ((0, 0, 0), (0, 1, 1), "std= above zero", ""),
        ((0, 0, float("inf")), (1, 1, 1), "mean= is finite", ""),
        ((0, 0), (1, 1, 1), "are three numbers each", ""),
    ],
)
def test_figures_of_another_convention_are_refused(
    mean: tuple[float, ...], std: tuple[float, ...], why: str, meant: str
) -> None:
    with pytest.raises(InputError) as caught:
        normalization_of(mean, std)
    assert why in str(caught.value)
    assert str(caught.value).endswith(meant)


def test_what_was_meant_is_what_the_graphs_compute() -> None:
    """``(x - mean) / std`` of values in [0, 255] is the same as ``(x / 255 - mean) / std`` of the figures proposed."""
    frame = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    by_hand = (frame - np.array(BYTES_MEAN)) / np.array(BYTES_STD)
    meant = Normalize(normalization_of((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))(torch.from_numpy(frame))
    np.testing.assert_allclose(meant.movedim(0, -1).numpy(), by_hand, atol=2e-6)


def test_the_command_line_says_it_as_it_is_typed() -> None:
    with pytest.raises(InputError) as caught:
        normalization_of(BYTES_MEAN, BYTES_STD)
    assert in_options(str(caught.value)) == (
        "--mean and --std are of values in [0, 1]; received 123.675 116.28 103.53 and 58.395 57.12 57.375. Probably "
        "meant: --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225"
    )
