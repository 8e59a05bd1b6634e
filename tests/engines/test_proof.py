"""A backend against the stored outputs, without PyTorch and onnx."""

import numpy as np
import pytest

from engines import Bundle, Precision
from engines.errors import BundleError, InputError
from engines.parity.checks import TOLERANCES, Status, Tolerance, tolerance_of
from engines.proof import backend_checks
from engines.schedules.schedule import Schedule


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_onnxruntime_proves_itself(exported: Bundle, precision: Precision) -> None:
    (check,) = backend_checks(exported, "onnxruntime", precision, schedule=Schedule(2, 4))
    assert check.status is Status.PASSED
    assert check.tolerance == TOLERANCES[precision].label_agreement
    assert "sub-batch 4" in check.subject


def test_wrong_outputs_fail_and_are_located(bundle) -> None:  # type: ignore[no-untyped-def]
    from tests.converters.verification.faults import sealed

    opened = Bundle.open(bundle)
    (case,) = opened.manifest.reference
    logits = np.load(bundle / case.logits)
    np.save(bundle / case.logits, np.roll(logits, -1, 2))
    (check,) = backend_checks(sealed(bundle), "onnxruntime", Precision.FP32)
    assert check.status is Status.FAILED
    assert check.location == "onnxruntime: labels are shifted by (0, 1) (rows, columns)"


def test_tolerances_can_be_replaced_one_by_one(exported: Bundle) -> None:
    (check,) = backend_checks(exported, "onnxruntime", Precision.FP16, overrides={"label_agreement": 0.5})
    assert check.tolerance == 0.5
    assert tolerance_of(Precision.FP32, {"logits": 0.25}).label_agreement == TOLERANCES[Precision.FP32].label_agreement
    assert Tolerance(1e-5, 1, 0, absolute=0.5).of_logits(10) == pytest.approx(0.05 + 1e-5)


def test_what_cannot_be_compared_is_an_error(exported: Bundle, bundle) -> None:  # type: ignore[no-untyped-def]
    from tests.converters.verification.faults import sealed

    with pytest.raises(InputError, match="unknown backend 'abacus'"):
        list(backend_checks(exported, "abacus", Precision.FP32))
    with pytest.raises(BundleError, match="no reference outputs"):
        list(backend_checks(sealed(bundle, reference=[]), "onnxruntime", Precision.FP32))
