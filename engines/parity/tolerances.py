"""The table of tolerances: what each precision may change (docs/validation.md, "The checks")."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engines.bundle.records import Tolerance
from engines.errors import InputError
from engines.schedules.schedule import Precision

TOLERANCES = {
    Precision.FP32: Tolerance(logits=1e-5, label_agreement=0.9999, ties=0.01, sub_batch=1e-6, mean_iou=0.01),
    # 10 bits of mantissa as float16 has, sums and all else in single precision.
    Precision.TF32: Tolerance(logits=2e-3, label_agreement=0.999, ties=0.02),
    Precision.FP16: Tolerance(logits=1e-2, label_agreement=0.999, ties=0.02),
    # bfloat16 has 8 bits where float16 has 11: eight times the error.
    Precision.BF16: Tolerance(logits=8e-2, label_agreement=0.99, ties=0.05, mean_iou=0.8),
    # Labels decide: the error of the logits is reported, and bounded so that an output that is dead fails. Zeros are
    # off by 1, and so is nearly any constant; trained networks whose labels agree are off by 0.05 to 0.31, by 0.19 at
    # most as int8 is calibrated by default (docs/results/precision.json).
    Precision.INT8: Tolerance(logits=0.5, label_agreement=0.99, ties=0.0, mean_iou=1.0),
}

INT8_MARGIN = 0.1
"""Relative to the largest logit: the most that int8 is taken to move a logit where labels are compared. By how much it
did move them, four times the root of the mean square, is what counts where it is less."""

MOST_UNDECIDED = 0.5
"""Share of the pixels whose best two classes int8 cannot tell apart, above which its labels say nothing."""

LARGEST_FP16 = 65504.0
"""The largest finite number of IEEE half precision."""


def tolerance_of(precision: Precision, overrides: Mapping[str, float] | None = None) -> Tolerance:
    """The table's row for a precision, with single figures replaced.

    Raises :class:`InputError` for a name that is no figure of :class:`Tolerance`.
    """
    known = Tolerance.__struct_fields__
    if unknown := (overrides or {}).keys() - set(known):
        raise InputError(f"unknown tolerance {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    return msgspec.structs.replace(TOLERANCES[precision], **(overrides or {}))
