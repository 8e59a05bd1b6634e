from __future__ import annotations

import numpy as np
import pytest

from engines.errors import LayoutError
from smp_deploy.datasets import CAMVID, SCENES
from smp_deploy.evaluation import ConfusionMatrix, confusion_counts, ious


def _frames(seed: int, count: int = 4, classes: int = 11, ignore: int = 11):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        truth = rng.integers(0, classes, (17, 23), dtype=np.uint8)
        prediction = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, classes, truth.shape))
        truth[rng.random(truth.shape) < 0.1] = ignore
        yield prediction.astype(np.uint8), truth


def test_counts_by_a_plain_loop():
    ((prediction, truth),) = _frames(0, count=1)
    expected = np.zeros((11, 11), int)
    for predicted, true in zip(prediction.ravel(), truth.ravel(), strict=True):
        if true != 11:
            expected[true, predicted] += 1
    np.testing.assert_array_equal(confusion_counts(prediction, truth, 11, 11), expected)


def test_iou_is_intersection_over_union_over_all_frames():
    matrix = ConfusionMatrix(CAMVID)
    frames = list(_frames(1))
    for prediction, truth in frames:
        matrix.add(prediction, truth)
    predictions, truths = (np.stack([frame[part] for frame in frames]) for part in (0, 1))
    valid = truths != 11
    expected = []
    for number in range(11):
        have, want = (predictions == number) & valid, (truths == number) & valid
        expected.append((have & want).sum() / (have | want).sum())
    np.testing.assert_allclose(matrix.class_ious, expected, rtol=1e-12)
    assert matrix.mean_iou == pytest.approx(np.mean(expected))
    assert matrix.thin_iou == pytest.approx(np.mean([expected[number] for number in (2, 6, 9, 10)]))
    assert matrix.pixel_accuracy == pytest.approx((predictions == truths)[valid].mean())


def test_equal_to_torchmetrics():
    torchmetrics = pytest.importorskip("torchmetrics")
    import torch

    metric = torchmetrics.JaccardIndex(task="multiclass", num_classes=11, ignore_index=11, average="none")
    matrix = ConfusionMatrix(CAMVID)
    for prediction, truth in _frames(2):
        matrix.add(prediction, truth)
        metric.update(torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
    np.testing.assert_allclose(matrix.class_ious, metric.compute().numpy(), atol=1e-6)


def test_a_class_that_nobody_has_counts_for_nothing():
    matrix = ConfusionMatrix(CAMVID)
    matrix.add(np.array([[0, 0, 1, 3]]), np.array([[0, 1, 1, 11]]))
    np.testing.assert_allclose(matrix.class_ious[:2], [0.5, 0.5])
    assert np.isnan(matrix.class_ious[2:]).all()
    assert matrix.mean_iou == 0.5
    assert np.isnan(matrix.thin_iou)


def test_nothing_labelled_is_undefined_and_not_perfect():
    matrix = ConfusionMatrix(SCENES)
    matrix.add(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    assert np.isnan(matrix.mean_iou)
    assert np.isnan(matrix.pixel_accuracy)
    assert np.isnan(ious(np.zeros((3, 3), np.int64))).all()


def test_what_cannot_be_judged():
    with pytest.raises(LayoutError, match=r"shape \(2, 2\) cannot be judged by labels of \(2, 3\)"):
        confusion_counts(np.zeros((2, 2), int), np.zeros((2, 3), int), 3, 255)
    with pytest.raises(LayoutError, match="a prediction lies outside the class numbers 0 to 2: 0 to 7"):
        confusion_counts(np.array([0, 7]), np.array([0, 1]), 3, 255)
    with pytest.raises(LayoutError, match="a label lies outside"):
        confusion_counts(np.array([0, 1]), np.array([0, 9]), 3, 255)
