"""What a trunk makes of its logits, against what it should make of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engines.bundle.manifest import OutputKind
from engines.bundle.records import Quantity
from engines.parity.comparison import relative_error, softmax

OUTPUT_QUANTITIES = {
    OutputKind.LABELS: Quantity.WRONG_LABELS,
    OutputKind.LOGITS: Quantity.LOGIT_ERROR,
    OutputKind.PROBABILITIES: Quantity.PROBABILITY_ERROR,
}


def expected_output(logits: NDArray[np.float32], kind: OutputKind) -> NDArray[np.generic]:
    """Labels, logits or probabilities of ``(classes, i, j)``."""
    if kind is OutputKind.LABELS:
        return np.asarray(logits.argmax(0), np.uint8)
    if kind is OutputKind.LOGITS:
        return logits
    return softmax(logits)


def output_error(output: NDArray[np.generic], logits: NDArray[np.float32], kind: OutputKind) -> float:
    """Share of labels that are not the largest logit's, or the largest error relative to the largest value."""
    expected = expected_output(logits, kind)
    if output.shape != expected.shape:
        return float("inf")
    if kind is OutputKind.LABELS:
        return float((output != expected).mean())
    given, wanted = np.asarray(output, np.float32), np.asarray(expected, np.float32)
    return relative_error(given, wanted)
