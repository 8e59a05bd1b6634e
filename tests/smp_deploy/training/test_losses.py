from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from smp_deploy.training.config import Loss
from smp_deploy.training.losses import class_weights, lovasz_softmax, training_loss


def test_cross_entropy_of_labelled_pixels_alone():
    logits = torch.tensor([[[[2.0, 0.0, 5.0]], [[0.0, 1.0, 5.0]]]])  # (1, 2, 1, 3)
    labels = torch.tensor([[[0, 1, 255]]])
    weights = torch.tensor([1.0, 3.0])
    first, second = np.log(1 + np.exp(-2)), np.log(1 + np.exp(-1))
    loss = training_loss(logits, labels, Loss(), weights, 255)
    assert float(loss) == pytest.approx((first + 3 * second) / 4)


def test_a_crop_without_labels_gives_zero_and_a_gradient():
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = training_loss(logits, torch.full((1, 2, 2), 7), Loss(lovasz=1.0), None, 7)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_lovasz_of_hard_predictions_is_one_minus_iou():
    for predicted in itertools.product(range(3), repeat=4):
        labels = np.array([0, 0, 1, 2])
        hard = np.array(predicted)
        ious = [((hard == c) & (labels == c)).sum() / ((hard == c) | (labels == c)).sum() for c in range(3)]
        probabilities = torch.nn.functional.one_hot(torch.from_numpy(hard), 3).double()
        loss = lovasz_softmax(probabilities, torch.from_numpy(labels))
        assert float(loss) == pytest.approx(1 - np.mean(ious))


def test_lovasz_is_the_extension_of_the_jaccard_loss():
    """Against its definition: errors in descending order, each times what it adds to the set function."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 9)
    foreground = rng.uniform(size=9)
    probabilities = np.stack([1 - foreground, foreground], 1)
    expected = []
    for number in (0, 1):
        truth = labels == number
        errors = np.abs(truth - probabilities[:, number])
        total, wrong = 0.0, np.zeros(9, bool)
        before = 0.0
        for pixel in np.argsort(-errors):
            wrong[pixel] = True
            predicted = truth ^ wrong
            jaccard = 1 - (truth & predicted).sum() / (truth | wrong).sum()
            total += errors[pixel] * (jaccard - before)
            before = jaccard
        expected.append(total)
    loss = lovasz_softmax(torch.from_numpy(probabilities), torch.from_numpy(labels))
    assert float(loss) == pytest.approx(np.mean(expected))


def test_lovasz_loss_is_added():
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    plain = training_loss(logits, labels, Loss(), None, 255)
    pixels = logits.permute(0, 2, 3, 1).reshape(-1, 3).softmax(1)
    expected = plain + 0.5 * lovasz_softmax(pixels, labels.reshape(-1))
    assert float(training_loss(logits, labels, Loss(lovasz=0.5), None, 255)) == pytest.approx(float(expected))


def test_class_weights_by_hand():
    # Frequencies 0.1, 0.2 and 0.7; the median is 0.2, and power 1 gives 2, 1 and 2/7 with a pixel mean of 0.6.
    np.testing.assert_allclose(class_weights(np.array([10, 20, 70]), 1.0), [2 / 0.6, 1 / 0.6, 2 / 7 / 0.6], rtol=1e-6)
    np.testing.assert_allclose(class_weights(np.array([10, 20, 70]), 0.0), [1, 1, 1], rtol=1e-6)


def test_a_class_without_pixels_weighs_nothing():
    weights = class_weights(np.array([10, 0, 10]), 0.5)
    np.testing.assert_allclose(weights, [1, 0, 1], rtol=1e-6)
