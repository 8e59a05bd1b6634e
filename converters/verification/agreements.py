"""Labels of one precision against those of fp32: of a frame, and counted over all frames that are judged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.verification.runs import Results, logits_of, merged
from converters.verification.subject import IGNORED, Frame, Subject
from converters.verification.walking import WalkedFrame
from engines.bundle.manifest import OutputKind
from engines.parity.comparison import LabelAgreement, largest_logit, ties, undecided
from engines.parity.metrics import by_phase, confusion_counts, near_boundaries
from engines.parity.tolerances import INT8_MARGIN
from engines.schedules.phases import Phase, PhaseGrid, Size
from engines.schedules.schedule import Precision

_NOTHING_IGNORED = -1


@dataclass(frozen=True, eq=False)
class ComparedLabels:
    """Labels of a frame in fp32 and in a precision, at all of its pixels or at every so many rows and columns."""

    frame: Frame
    precision: Precision
    image: NDArray[np.uint8]
    """``(H, W, 3)`` of these pixels."""
    expected: NDArray[np.integer]
    """``(H, W)`` in fp32."""
    actual: NDArray[np.integer]
    """``(H, W)`` in the precision."""
    ties: NDArray[np.bool_]
    """``(H, W)``: where either label would be right."""
    undecided: NDArray[np.bool_]
    """``(H, W)``: where int8 cannot be expected to tell the best two classes apart; nowhere in other precisions."""
    by_phase: NDArray[np.float64] | None
    """Share of differing pixels at every phase; ``None`` where these are not all pixels."""
    error_by_phase: NDArray[np.float64] | None
    """Mean absolute error of the logits at every phase, relative to the largest logit."""


def compared_labels(subject: Subject, walked: WalkedFrame) -> list[ComparedLabels]:
    """Of a frame in every precision beside fp32; none where it does not count, or lacks logits."""
    if not (walked.counts and walked.has_logits):
        return []
    others = (precision for precision in walked.results if precision is not Precision.FP32)
    return [_compared(subject, walked, precision) for precision in others]


def _compared(subject: Subject, walked: WalkedFrame, precision: Precision) -> ComparedLabels:
    grid, results = walked.grid, walked.results[precision]
    lattice = Lattice.within(grid.window, list(results))
    here = (..., lattice.rows, lattice.columns)
    expected_logits, actual_logits = (
        merged(grid, logits_of(held))[here] for held in (walked.results[Precision.FP32], results)
    )
    expected = expected_logits.argmax(0)
    actual = _own_labels(subject, grid, results)[here] if _gives_labels(subject) else actual_logits.argmax(0)
    agreement = errors = None
    scale, margin = largest_logit(expected_logits) or 1.0, subject.tolerance(precision).of_ties
    if precision is Precision.INT8:
        # Two logits part by up to twice as much as each moves; a fault must not excuse itself by how large it is.
        moved = float(np.sqrt(np.mean(np.square(actual_logits - expected_logits, dtype=np.float64))))
        margin = min(2 * moved / scale, INT8_MARGIN / 2) if np.isfinite(moved) else 0.0
    if lattice.whole:
        agreement = by_phase(actual != expected, grid.window)
        errors = by_phase(np.abs(actual_logits - expected_logits).max(0) / scale, grid.window)
    return ComparedLabels(
        walked.frame,
        precision,
        walked.frame.image[lattice.rows, lattice.columns],
        expected,
        actual,
        ties(actual, expected_logits, margin),
        undecided(expected_logits, margin if precision is Precision.INT8 else 0.0),
        agreement,
        errors,
    )


def _gives_labels(subject: Subject) -> bool:
    return subject.bundle.manifest.outputs is OutputKind.LABELS


def _own_labels(subject: Subject, grid: PhaseGrid, results: Results) -> NDArray[np.integer]:
    """Those that the trunk itself gave."""
    return np.asarray(merged(grid, {phase: result.output for phase, result in results.items()}), np.uint8)


@dataclass(frozen=True, eq=False)
class Agreement:
    """Labels of one precision against those of fp32, summed over frames."""

    pixels: int
    differing: int
    ties: int
    """Of the differing pixels."""
    undecided: int
    """Pixels whose best two classes int8 cannot be expected to tell apart."""
    near: int
    near_differing: int
    confusion: NDArray[np.int64]
    """Class in fp32 (row) against class in the precision (column)."""
    by_phase: NDArray[np.float64] | None
    """Share of differing pixels at every phase, of the first frame that was computed whole."""
    error_by_phase: NDArray[np.float64] | None
    """Mean absolute error of the logits at every phase, relative to the largest logit."""
    judged: dict[str, NDArray[np.int64]]
    """Confusion with the labels that people gave, of ``fp32`` and of the ``precision``; empty without labels."""

    @property
    def shares(self) -> LabelAgreement:
        """Of all pixels, of which there are some."""
        return LabelAgreement(1 - self.differing / self.pixels, 1 - (self.differing - self.ties) / self.pixels)

    @property
    def decided(self) -> float:
        """Share of pixels with the same label among those whose best two classes can be told apart."""
        clear = self.pixels - self.undecided
        return 1 - min(1.0, (self.differing - self.ties) / clear) if clear else 1.0


def agreement_of(subject: Subject, compared: Iterable[ComparedLabels]) -> Agreement:
    """Sum the labels of one precision over the frames that are judged."""
    held, classes = list(compared), len(subject.bundle.manifest.classes)
    counted = [labels for labels in held if any(labels.frame is judged for judged in subject.judged)]
    pixels = differing = tied = unclear = near = near_differing = 0
    confusion, judged = np.zeros((classes, classes), np.int64), dict[str, NDArray[np.int64]]()
    for labels in counted:
        differs, edges = labels.actual != labels.expected, near_boundaries(labels.expected)
        pixels += labels.actual.size
        differing += int(differs.sum())
        tied += int((differs & labels.ties).sum())
        unclear += int(labels.undecided.sum())
        near += int(edges.sum())
        near_differing += int((differs & edges).sum())
        actual = _known(labels.actual, classes)
        confusion += confusion_counts(actual, labels.expected, classes, _NOTHING_IGNORED)
        if labels.frame.truth is not None and labels.by_phase is not None:
            for name, given in (("fp32", labels.expected), ("precision", actual)):
                counts = confusion_counts(_known(given, classes), labels.frame.truth, classes, IGNORED)
                judged[name] = judged.get(name, np.zeros_like(counts)) + counts
    whole = next((labels for labels in held if labels.by_phase is not None), None)
    return Agreement(
        pixels,
        differing,
        tied,
        unclear,
        near,
        near_differing,
        confusion,
        whole.by_phase if whole else None,
        whole.error_by_phase if whole else None,
        judged,
    )


def _known(labels: NDArray[np.integer], classes: int) -> NDArray[np.integer]:
    """A label that is no class counts as the last one: a fault, but one that must not end the checks."""
    return np.minimum(labels.astype(np.intp), classes - 1)


@dataclass(frozen=True)
class Lattice:
    """Regularly spaced pixels of a frame: every ``step`` rows and columns from ``offset`` on."""

    step: Size
    offset: Phase

    @classmethod
    def within(cls, window: Size, phases: list[Phase]) -> Lattice:
        """The densest one that these phases compute, the first of them included."""
        (h, w), held, first = window, set(phases), phases[0]
        steps = [(down, right) for down in range(1, h + 1) for right in range(1, w + 1) if not (h % down or w % right)]
        for down, right in sorted(steps, key=math.prod):
            row, column = offset = (first[0] % down, first[1] % right)
            if held.issuperset(itertools.product(range(row, h, down), range(column, w, right))):
                return cls((down, right), offset)
        raise AssertionError("the first phase alone is a lattice")

    @property
    def whole(self) -> bool:
        """Whether it is all pixels."""
        return self.step == (1, 1)

    @property
    def rows(self) -> slice:
        """Of ``(H, W)``."""
        return slice(self.offset[0], None, self.step[0])

    @property
    def columns(self) -> slice:
        """Of ``(H, W)``."""
        return slice(self.offset[1], None, self.step[1])
