"""How far two results are apart: logits, labels, phases of different windows. Plain numpy, for the vehicle too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engines.bundle.records import Tolerance
from engines.errors import LayoutError
from engines.schedules.phases import Phase, Size


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """Probabilities over the first axis of ``(classes, ...)``."""
    raised = np.exp(logits - logits.max(0))
    return np.asarray(raised / raised.sum(0), np.float32)


def largest_error(actual: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """``max |actual - expected|``; infinite when anything is not finite.

    Raises :class:`LayoutError` for arrays of different shapes.
    """
    if actual.shape != expected.shape:
        raise LayoutError(f"results of different shapes: {actual.shape} and {expected.shape}")
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return float("inf")
    return float(np.abs(actual.astype(np.float64) - expected).max())


def relative_error(actual: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """``max |actual - expected| / max |expected|``; infinite when anything is not finite.

    Raises :class:`LayoutError` for arrays of different shapes.
    """
    error, scale = largest_error(actual, expected), float(np.abs(expected).max())
    return error / scale if scale and np.isfinite(error) else error


def largest_logit(logits: NDArray[np.floating], axis: int = 0) -> float:
    """What errors of logits are relative to: the largest magnitude once their mean over the classes is taken off.

    A common offset changes no label, and an error that hides behind a large one does. A single class has no others to
    be compared with, and stays as it is. Infinite when anything is not finite.
    """
    if not np.isfinite(logits).all():
        return float("inf")
    if logits.shape[axis] < 2:
        return float(np.abs(logits).max())
    wide = logits.astype(np.float64)
    return float(np.abs(wide - wide.mean(axis, keepdims=True)).max())


def logit_error(actual: NDArray[np.floating], expected: NDArray[np.floating], axis: int = 0) -> float:
    """``max |actual - expected|`` relative to :func:`largest_logit`; infinite when anything is not finite.

    Args:
        actual: logits with the classes on ``axis``.
        expected: of the same shape.
        axis: of the classes.

    Raises :class:`LayoutError` for arrays of different shapes.
    """
    error, scale = largest_error(actual, expected), largest_logit(expected, axis)
    return error / scale if scale and np.isfinite(error) else error


def assembled_at(
    predictions: Mapping[Phase, NDArray[np.generic]], window: Size, phase: Phase, phase_window: Size
) -> NDArray[np.generic]:
    """What the phases of one window say of one phase of another: ``(..., i, j)``.

    Args:
        predictions: by phase of ``window``, each ``(..., H/h, W/w)``; at least those of :func:`phases_at`.
        window: of a trunk, say.
        phase: of ``phase_window``.
        phase_window: of a reference case, say. One window divides the other, as windows of the first levels do.
    """
    needed = phases_at(window, phase, phase_window)
    if len(needed) == 1:
        # The other phase lies inside this one.
        (row, column), (h, w) = needed[0], window
        finer = predictions[needed[0]]
        return finer[
            ...,
            (phase[0] - row) // h :: max(phase_window[0] // h, 1),
            (phase[1] - column) // w :: max(phase_window[1] // w, 1),
        ]
    down, right = window[0] // phase_window[0], window[1] // phase_window[1]
    first = predictions[needed[0]]
    whole = np.empty((*first.shape[:-2], first.shape[-2] * down, first.shape[-1] * right), first.dtype)
    for row, column in needed:
        at = (row - phase[0]) // phase_window[0], (column - phase[1]) // phase_window[1]
        whole[..., at[0] :: down, at[1] :: right] = predictions[row, column]
    return whole


def phases_at(window: Size, phase: Phase, phase_window: Size) -> list[Phase]:
    """The phases of ``window`` that share pixels with ``phase`` of ``phase_window``; one window divides the other."""
    rows = range(phase[0] % min(window[0], phase_window[0]), window[0], min(window[0], phase_window[0]))
    columns = range(phase[1] % min(window[1], phase_window[1]), window[1], min(window[1], phase_window[1]))
    return [(row, column) for row in rows for column in columns]


@dataclass(frozen=True)
class LabelAgreement:
    """Where labels differ from those of the reference logits."""

    agreement: float
    """Share of pixels with the same label."""
    agreement_without_ties: float
    """The same, without the differing pixels whose two labels have logits within the tolerance of each other."""

    def judged(self, tolerance: Tolerance) -> float:
        """The figure that counts: without ties, of which only so many are forgiven."""
        return min(self.agreement_without_ties, self.agreement + tolerance.ties)

    def __str__(self) -> str:
        return f"{self.agreement:.4%} of pixels, {self.agreement_without_ties:.4%} without ties"


def label_agreement(
    labels: NDArray[np.integer], logits: NDArray[np.floating], logit_tolerance: float
) -> LabelAgreement:
    """Compare labels ``(H, W)`` with the reference logits ``(classes, H, W)`` that they should follow from.

    A pixel is a tie when the reference itself gives both labels nearly the same logit: their distance is at
    most twice ``logit_tolerance`` (each may move by it) times the largest logit. Logits are taken relative to
    their mean over the classes, since a common offset changes no label. Logits that are not finite agree with
    nothing. Raises :class:`LayoutError` for labels of another size.
    """
    if labels.shape != logits.shape[1:]:
        raise LayoutError(f"labels of {labels.shape} and logits of {logits.shape} do not belong together")
    if not np.isfinite(logits).all():
        return LabelAgreement(0.0, 0.0)
    differs = labels != logits.argmax(0)
    tied = differs & ties(labels, logits, logit_tolerance)
    return LabelAgreement(1 - float(differs.mean()), 1 - float((differs & ~tied).mean()))


def ties(labels: NDArray[np.integer], logits: NDArray[np.floating], logit_tolerance: float) -> NDArray[np.bool_]:
    """Pixels whose label ``(H, W)`` is as good as the reference logits' own: see :func:`label_agreement`."""
    logits = logits - logits.mean(0)
    best = logits.max(0)
    known = np.minimum(labels.astype(np.intp), len(logits) - 1)
    other = np.take_along_axis(logits, known[None], 0)[0]
    close: NDArray[np.bool_] = (labels < len(logits)) & (best - other <= 2 * logit_tolerance * np.abs(logits).max())
    return close


def undecided(logits: NDArray[np.floating], logit_tolerance: float) -> NDArray[np.bool_]:
    """Pixels of ``(classes, H, W)`` whose best two logits are as close as :func:`ties` takes for one."""
    if len(logits) < 2 or not logit_tolerance:
        return np.zeros(logits.shape[1:], np.bool_)
    second = np.argpartition(logits, len(logits) - 2, axis=0)[-2]
    return ties(second, logits, logit_tolerance)


def share_of_ties(logits: NDArray[np.floating], logit_tolerance: float) -> float:
    """Share of the pixels of ``(classes, H, W)`` where the best two logits are as close as :func:`ties` takes for one.

    0 for a single class, and for no tolerance.
    """
    return float(undecided(logits, logit_tolerance).mean())
