from __future__ import annotations

import numpy as np
import pytest

from engines.errors import LayoutError
from smp_deploy.datasets import CAMVID
from smp_deploy.evaluation import BoundaryCounts, boundary, boundary_distance


def _by_hand(mask: np.ndarray, distance: int) -> np.ndarray:
    """Pixel by pixel: is anything within the square not of the mask, or outside the frame?"""
    rim = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        for r in range(row - distance, row + distance + 1):
            for c in range(column - distance, column + distance + 1):
                inside = 0 <= r < mask.shape[0] and 0 <= c < mask.shape[1]
                if not inside or not mask[r, c]:
                    rim[row, column] = True
    return rim


@pytest.mark.parametrize("distance", [1, 2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_boundaries_by_a_plain_loop(seed, distance):
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((5, 6)) < 0.6, np.ones((4, 4), bool)).astype(bool)
    np.testing.assert_array_equal(boundary(mask, distance), _by_hand(mask, distance))


def test_distance_follows_the_diagonal():
    assert boundary_distance((360, 480)) == 3
    assert boundary_distance((1024, 2048)) == 11
    assert boundary_distance((16, 16)) == 1


def test_counts_over_frames_and_ignored_pixels():
    rng = np.random.default_rng(4)
    counts = BoundaryCounts(CAMVID)
    intersection, union = np.zeros(11), np.zeros(11)
    for _ in range(3):
        truth = np.kron(rng.integers(0, 4, (4, 5)), np.ones((5, 5), int)).astype(np.uint8)
        prediction = np.roll(truth, 1, axis=1)
        truth[:3, :4] = 11
        counts.add(prediction, truth)
        for number in range(11):
            want = _by_hand(truth == number, 1)
            have = _by_hand((prediction == number) & (truth != 11), 1)
            intersection[number] += (want & have).sum()
            union[number] += (want | have).sum()
    np.testing.assert_allclose(counts.class_ious[:4], (intersection / np.maximum(union, 1))[:4])
    assert np.isnan(counts.class_ious[4:]).all()
    assert counts.mean_iou == pytest.approx((intersection[:4] / union[:4]).mean())


def test_a_perfect_prediction_scores_one_whatever_is_ignored():
    truth = np.kron(np.arange(12).reshape(3, 4), np.ones((6, 6), int)).astype(np.uint8)
    prediction = np.where(truth == 11, 3, truth).astype(np.uint8)
    counts = BoundaryCounts(CAMVID)
    counts.add(prediction, truth)
    np.testing.assert_array_equal(counts.class_ious, np.ones(11))


def test_a_shifted_outline_costs_more_at_the_boundary_than_in_iou():
    truth = np.zeros((64, 64), np.uint8)
    truth[8:56, 8:56] = 1
    counts = BoundaryCounts(CAMVID)
    counts.add(np.roll(truth, 2, axis=1), truth)
    assert counts.class_ious[1] < 0.5  # the IoU of the square is 0.92


def test_shapes_must_agree():
    with pytest.raises(LayoutError, match="cannot be judged by labels"):
        BoundaryCounts(CAMVID).add(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8))
