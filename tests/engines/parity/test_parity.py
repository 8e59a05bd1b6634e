"""Figures of parity, by hand, and what the table of tolerances must satisfy."""

import numpy as np
import pytest

from engines import Precision
from engines.bundle.records import Check, Figure, Kind, Quantity, Status, Tolerance
from engines.errors import InputError, LayoutError
from engines.parity.checks import Question
from engines.parity.comparison import label_agreement, logit_error, relative_error
from engines.parity.tolerances import TOLERANCES, tolerance_of


def question(quantity: Quantity, tolerance: float) -> Question:
    return Question(kind=Kind.HOP, name="x", subject="y", quantity=quantity, tolerance=tolerance)


def test_relative_error_by_hand() -> None:
    assert relative_error(np.array([1.0, -4.5]), np.array([1.5, -4.0])) == pytest.approx(0.5 / 4)
    assert relative_error(np.array([0.25]), np.array([0.0])) == 0.25
    assert relative_error(np.array([2.0]), np.array([2.0])) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_passes(bad: float) -> None:
    for actual, expected in ((np.array([bad]), np.array([1.0])), (np.array([1.0]), np.array([bad]))):
        error = relative_error(actual, expected)
        assert question(Quantity.LOGIT_ERROR, 1e30).measured(error).failed
    for quantity in Quantity:
        assert question(quantity, 0.5).measured(float("nan")).failed


def test_errors_pass_up_to_their_tolerance_and_agreement_from_it_on() -> None:
    for quantity in Quantity:
        statuses = [question(quantity, 0.5).measured(value).status for value in (0.25, 0.5, 0.75)]
        grows = quantity in (Quantity.LABEL_AGREEMENT, Quantity.ROUNDING)
        first, last = (Status.FAILED, Status.PASSED) if grows else (Status.PASSED, Status.FAILED)
        assert statuses == [first, Status.PASSED, last]


def test_what_did_not_run_is_no_pass_and_what_broke_is_a_failure() -> None:
    asked = question(Quantity.LOGIT_ERROR, 0.5)
    absent, broken = asked.not_run("there is no GPU"), asked.broke("an illegal memory access")
    assert (absent.status, absent.value, absent.failed) == (Status.NOT_RUN, None, False)
    assert (broken.status, broken.value, broken.failed) == (Status.FAILED, None, True)
    assert "an illegal memory access" in broken.detail


@pytest.mark.parametrize(
    ("status", "value"), [(Status.PASSED, 2.0), (Status.PASSED, None), (Status.FAILED, 0.5), (Status.NOT_RUN, 0.5)]
)
def test_a_check_that_contradicts_its_figures_cannot_be_made(status: Status, value: float | None) -> None:
    with pytest.raises(ValueError, match=f"says {status.value} of"):
        Check(
            kind=Kind.HOP,
            name="x",
            subject="y",
            status=status,
            quantity=Quantity.LOGIT_ERROR,
            value=None if value is None else Figure(value),
            tolerance=Figure(1.0),
        )


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


PUBLISHED = {
    # fp32, fp16, int8, as section 8 of the design has them.
    "logits": (1e-5, 1e-2, None),
    "label_agreement": (0.9999, 0.999, 0.99),
    "mean_iou": (0.01, 0.1, 1.0),
    "sub_batch": (1e-6, 1e-3, None),
}


def test_the_table_is_the_published_one() -> None:
    for name, row in PUBLISHED.items():
        for precision, figure in zip((Precision.FP32, Precision.FP16, Precision.INT8), row, strict=True):
            if figure is not None:
                assert getattr(TOLERANCES[precision], name) == figure, (name, precision)


def test_fewer_bits_may_change_more() -> None:
    """bf16 has 8 bits of 11: within a factor of 2**3 of fp16. int8 lies above both, in every row."""
    fp32, tf32, fp16, bf16, int8 = (TOLERANCES[precision] for precision in Precision)
    # Its convolutions read what fp16's do, and sum and hand on in single precision.
    assert fp32.logits < tf32.logits < fp16.logits
    for name in ("logits", "mean_iou"):
        assert getattr(fp32, name) < getattr(fp16, name) < getattr(bf16, name) < getattr(int8, name)
        assert getattr(bf16, name) <= 2**3 * getattr(fp16, name)
    assert fp32.label_agreement > fp16.label_agreement > bf16.label_agreement >= int8.label_agreement
    for row in (fp32, tf32, fp16, bf16, int8):
        # A share of ties that is forgiven must not be all that the labels may lose.
        assert row.label_agreement - row.ties > 0.9


def dead(logits: np.ndarray) -> dict[str, np.ndarray]:
    middle = (logits.max() + logits.min()) / 2
    return {
        "zeros": np.zeros_like(logits),
        "one number": np.full_like(logits, middle),
        "a number for each class": np.broadcast_to(logits.mean((1, 2), keepdims=True), logits.shape),
        "not a number": np.full_like(logits, np.nan),
    }


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("how", ["zeros", "one number", "a number for each class", "not a number"])
def test_an_output_that_is_dead_fails(precision: Precision, how: str) -> None:
    """In every precision, by its logits and by its labels."""
    # Of both signs, as those of trained networks are: the head's outputs are no probabilities.
    logits = np.random.default_rng(0).uniform(-8, 10, (5, 40, 40))
    tolerance, output = TOLERANCES[precision], dead(logits)[how]
    error = relative_error(output, logits)
    assert question(Quantity.LOGIT_ERROR, tolerance.logits).measured(error).failed
    labels = np.nan_to_num(output).argmax(0).astype(np.uint8)
    agreement = label_agreement(labels, logits, tolerance.of_ties).judged(tolerance)
    assert question(Quantity.LABEL_AGREEMENT, tolerance.label_agreement).measured(agreement).failed


@pytest.mark.parametrize("precision", list(Precision))
def test_labels_of_one_class_fail_wherever_there_are_others(precision: Precision) -> None:
    """A road frame: three quarters of it one class, and the dead output says nothing else."""
    logits = np.zeros((3, 40, 40))
    logits[0], logits[1, :, 30:] = 1.0, 2.0
    tolerance = TOLERANCES[precision]
    agreement = label_agreement(np.zeros((40, 40), np.uint8), logits, tolerance.of_ties)
    assert agreement.judged(tolerance) < tolerance.label_agreement


def test_an_unknown_tolerance_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown tolerance rtol; known are logits, label_agreement, ties, sub_batch"):
        tolerance_of(Precision.FP32, {"rtol": 1.0})


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(LayoutError, match=r"\(1, 1\) and logits of \(3, 4, 4\)"):
        label_agreement(np.zeros((1, 1), np.uint8), np.zeros((3, 4, 4)), 0.1)


def test_an_error_does_not_hide_behind_a_common_offset() -> None:
    """1e4 on every class changes no label; errors of 0.5 on logits of about 3 do, and are 5e-5 of the largest one."""
    draw = np.random.default_rng(0)
    plain = draw.standard_normal((5, 16, 16))
    expected = plain + 1e4
    actual = expected + 0.5 * draw.choice((-1.0, 1.0), plain.shape)
    assert (actual.argmax(0) != expected.argmax(0)).any()
    assert np.abs(actual - expected).max() / np.abs(expected).max() < 1e-4
    centred = plain - plain.mean(0)
    assert logit_error(actual, expected) == pytest.approx(0.5 / np.abs(centred).max(), rel=1e-6)
    assert logit_error(actual - 1e4, plain) == pytest.approx(logit_error(actual, expected), rel=1e-6)


def test_one_class_has_no_others_to_be_relative_to() -> None:
    assert logit_error(np.full((1, 2, 2), 5.0), np.full((1, 2, 2), 4.0)) == 0.25
