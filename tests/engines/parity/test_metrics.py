"""Metrics by hand and against torchmetrics."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix, multiclass_jaccard_index

from engines.parity.metrics import by_phase, confusion_counts, exchanged_phases, ious, near_boundaries, shift_of_labels


def test_confusion_and_iou_are_those_of_torchmetrics() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 6, (40, 50)), rng.integers(0, 5, (40, 50))
    truth[:4] = 255
    counts = confusion_counts(prediction, truth, 5 + 1, 255)
    tensors = torch.from_numpy(prediction), torch.from_numpy(truth)
    expected = multiclass_confusion_matrix(*tensors, num_classes=6, ignore_index=255).numpy()
    assert (counts == expected).all()
    jaccard = multiclass_jaccard_index(*tensors, num_classes=6, ignore_index=255, average="none").numpy()
    assert np.nan_to_num(ious(counts)) == pytest.approx(jaccard)


def test_by_phase_by_hand() -> None:
    values = np.array([[1.0, 0.0, 3.0, 0.0], [0.0, 8.0, 0.0, np.nan]])
    assert by_phase(values, (2, 2)).tolist() == [[2.0, 0.0], [0.0, 8.0]]


def test_near_boundaries_by_hand() -> None:
    labels = np.zeros((1, 8), np.int64)
    labels[0, 4:] = 1
    assert np.flatnonzero(near_boundaries(labels, 1)[0]).tolist() == [3, 4]
    assert np.flatnonzero(near_boundaries(labels, 2)[0]).tolist() == [2, 3, 4, 5]
    assert not near_boundaries(np.zeros((5, 5), np.int64)).any()


@pytest.mark.parametrize("shift", [(0, 1), (-1, 0), (2, -2)])
def test_a_shift_is_found(shift: tuple[int, int]) -> None:
    expected = np.random.default_rng(1).integers(0, 4, (20, 30))
    assert shift_of_labels(np.roll(expected, shift, (0, 1)), expected) == shift
    assert shift_of_labels(expected, expected) is None
    assert shift_of_labels(np.random.default_rng(2).integers(0, 4, (20, 30)), expected) is None


def test_exchanged_phases_in_words() -> None:
    expected = np.random.default_rng(3).normal(size=(2, 8, 8))
    windows = [(2, 2), (2, 2)]
    turned, reverse = expected.copy(), expected.copy()
    turned[:, 0::2, 1::2], turned[:, 1::2, 0::2] = expected[:, 1::2, 0::2], expected[:, 0::2, 1::2]
    for row in range(4):
        for column in range(4):
            source = (row % 2 * 2 + row // 2, column % 2 * 2 + column // 2)
            reverse[:, row::4, column::4] = expected[:, source[0] :: 4, source[1] :: 4]
    assert "rows and columns of the phases are exchanged at level 1" in str(
        exchanged_phases(turned, expected, windows, 1e-6)
    )
    assert "the levels of the merges are in the wrong order" in str(exchanged_phases(reverse, expected, windows, 1e-6))
    assert exchanged_phases(expected, expected, windows, 1e-6) is None
    assert exchanged_phases(expected + 1, expected, windows, 1e-6) is None
    shifted = expected.copy()
    shifted[:, 0::2] = expected[:, 1::2]
    words = str(exchanged_phases(shifted, expected, windows, 1e-6))
    assert words == "phases are exchanged at level 1: phase (0, 0) holds what belongs to phase (1, 0)"
