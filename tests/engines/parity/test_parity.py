"""Figures of parity, by hand."""

import numpy as np
import pytest

from engines.errors import LayoutError
from engines.parity.checks import TOLERANCES, Check, Status, Tolerance, label_agreement, relative_error


def test_relative_error_by_hand() -> None:
    assert relative_error(np.array([1.0, -4.5]), np.array([1.5, -4.0])) == pytest.approx(0.5 / 4)
    assert relative_error(np.array([0.25]), np.array([0.0])) == 0.25
    assert relative_error(np.array([2.0]), np.array([2.0])) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_passes(bad: float) -> None:
    for actual, expected in ((np.array([bad]), np.array([1.0])), (np.array([1.0]), np.array([bad]))):
        error = relative_error(actual, expected)
        assert Check.at_most("x", "y", error, 1e30).status is Status.FAILED
    assert Check.at_most("x", "y", float("nan"), 1).status is Status.FAILED
    assert Check.at_least("x", "y", float("nan"), 0).status is Status.FAILED


def test_shapes_must_agree() -> None:
    with pytest.raises(LayoutError, match=r"\(2,\) and \(3,\)"):
        relative_error(np.zeros(2), np.zeros(3))


def test_label_agreement_by_hand() -> None:
    # Four pixels of three classes. The largest logit is 10 above its mean, so a tie is a distance of up to
    # 2 * 0.01 * 10 = 0.2; the offset of 100 changes nothing.
    logits = 100 + np.array([[[10.0, 1.0, 1.0, 5.0]], [[-5.0, 0.9, 0.5, 0.0]], [[-5.0, 0.0, 0.0, 4.9]]])
    agreement = label_agreement(np.array([[0, 1, 1, 2]], np.uint8), logits, 0.01)
    assert agreement.agreement == 0.25
    assert agreement.agreement_without_ties == 0.75
    assert str(agreement) == "25.0000% of pixels, 75.0000% without ties"


def test_labels_beyond_the_classes_are_never_ties() -> None:
    agreement = label_agreement(np.array([[7]], np.uint8), np.zeros((2, 1, 1)), 1.0)
    assert agreement.agreement_without_ties == 0


@pytest.mark.parametrize("tolerance", TOLERANCES.values())
def test_wrong_labels_fail_whatever_the_logits(tolerance: Tolerance) -> None:
    """Neither a common offset of the logits, nor values that are not finite, nor nearly equal classes excuse them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 40, 40))
    wrong = (logits.argmax(0) + rng.integers(0, 2, (40, 40))).astype(np.uint8) % 5
    not_finite = logits.copy()
    not_finite[0, 0, 0] = np.inf
    for reference in (logits, logits + 1e6, not_finite, logits * 1e-9, np.zeros_like(logits)):
        agreement = label_agreement(wrong, reference, tolerance.logits)
        assert agreement.judged(tolerance) < tolerance.label_agreement
    assert label_agreement(logits.argmax(0).astype(np.uint8), logits, 0).judged(tolerance) == 1


def test_a_change_of_the_mean_iou_is_bounded_by_precision() -> None:
    points = {precision.value: tolerance.mean_iou for precision, tolerance in TOLERANCES.items()}
    assert points == {"fp32": 0.01, "fp16": 0.1, "bf16": 0.8, "int8": 1.0}


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"\(1, 1\) and logits of \(3, 4, 4\)"):
        label_agreement(np.zeros((1, 1), np.uint8), np.zeros((3, 4, 4)), 0.1)
