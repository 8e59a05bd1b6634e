"""Whether an error matters for the segmentation: labels, ties, boundaries, and mean IoU on labelled frames."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.verification.runs import Results, logits_of, merged
from converters.verification.subject import Agreement, Frame, Overlay, Subject, runnable
from engines.backends.onnxruntime.cpu import ONNXRUNTIME_CPU
from engines.bundle.manifest import OutputKind
from engines.parity.checks import Check, Kind, LabelAgreement, ties
from engines.parity.metrics import by_phase, ious, near_boundaries, shift_of_labels
from engines.schedules.phases import Phase, PhaseGrid, Size
from engines.schedules.schedule import Precision


def label_checks(subject: Subject) -> Iterator[Check]:
    """For every precision beside fp32, over the frames that count."""
    for precision in subject.precisions:
        tolerance = subject.tolerance(precision)
        found = subject.findings.agreements.get(precision.value)
        name = f"labels of fp32 -> {precision.value}"
        if found is None or not found.pixels:
            ran = precision in runnable(subject.bundle.manifest.trunk())
            reason = "no logits to compare" if ran else ONNXRUNTIME_CPU.refusal(precision) or ""
            yield Check.not_run(name, "frames", tolerance.label_agreement, reason, Kind.LABELS)
            continue
        agreement = LabelAgreement(
            1 - found.differing / found.pixels, 1 - (found.differing - found.ties) / found.pixels
        )
        frames = f"{len(subject.judged)} frame{'s' if len(subject.judged) > 1 else ''}, {found.pixels} pixels"
        check = Check.at_least(
            name, frames, agreement.judged(tolerance), tolerance.label_agreement, _words(found, agreement), Kind.LABELS
        )
        yield check.located(_location(subject, precision, found)) if check.failed else check
        yield _mean_iou(subject, precision, found)


def count(
    subject: Subject, grid: PhaseGrid, frame: Frame, exact: Results, results: Results, precision: Precision
) -> None:
    """Add a frame's labels in one precision, where its phases were computed, to what is found."""
    tolerance, classes = subject.tolerance(precision), len(subject.bundle.manifest.classes)
    lattice = Lattice.within(grid.window, list(results))
    here = (..., lattice.rows, lattice.columns)
    expected_logits, actual_logits = (merged(grid, logits_of(held))[here] for held in (exact, results))
    expected: NDArray[np.integer] = expected_logits.argmax(0)
    actual: NDArray[np.integer]
    if subject.bundle.manifest.outputs is OutputKind.LABELS:
        # Those that the trunk itself gave.
        own = merged(grid, {phase: result.output for phase, result in results.items()})
        actual = np.asarray(own[here], np.uint8)
    else:
        actual = actual_logits.argmax(0)
    tied = ties(actual, expected_logits, tolerance.of_ties)
    agreement = subject.findings.agreements.setdefault(precision.value, Agreement(classes))
    if any(frame is judged for judged in subject.judged):
        agreement.add(actual, expected, tied, near_boundaries(expected))
        if frame.truth is not None and lattice.whole:
            agreement.judge(actual, expected, frame.truth)
    if agreement.by_phase is None and lattice.whole:
        scale = float(np.abs(expected_logits).max()) or 1.0
        agreement.by_phase = by_phase(actual != expected, grid.window)
        agreement.error_by_phase = by_phase(np.abs(actual_logits - expected_logits).max(0) / scale, grid.window)
    pixels = frame.image[lattice.rows, lattice.columns]
    subject.findings.overlays.append(Overlay(frame.name, precision.value, pixels, expected, actual, tied))


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


def _words(found: Agreement, agreement: LabelAgreement) -> str:
    tied = f"{found.ties / found.differing:.0%} of the differing pixels are ties" if found.differing else "none differs"
    away, away_differing = found.pixels - found.near, found.differing - found.near_differing
    near = f"{found.near_differing / found.near:.3%}" if found.near else "no pixel"
    elsewhere = f"{away_differing / away:.3%}" if away else "no pixel"
    return f"{agreement}; {tied}; differing near class boundaries {near}, elsewhere {elsewhere}"


def _location(subject: Subject, precision: Precision, found: Agreement) -> str:
    for overlay in subject.findings.overlays:
        if overlay.precision == precision.value:
            shift = shift_of_labels(overlay.actual.astype(np.int64), overlay.expected.astype(np.int64))
            if shift is not None:
                return f"labels are shifted by {shift} (rows, columns) on {overlay.name}"
    wrong = found.confusion.sum(1) - np.diag(found.confusion)
    name = subject.bundle.manifest.classes[int(wrong.argmax())].name
    phase = ""
    if found.by_phase is not None and np.nanmax(found.by_phase) > 0:
        row, column = np.unravel_index(int(np.nanargmax(found.by_phase)), found.by_phase.shape)
        phase = f", phase {(int(row), int(column))}"
    return f"most in class {name}{phase}"


def _mean_iou(subject: Subject, precision: Precision, found: Agreement) -> Check:
    name, tolerance = f"mean IoU of fp32 -> {precision.value}", subject.tolerance(precision).mean_iou
    if not found.judged:
        reason = "no labelled frames: give --dataset and --root, or --labels"
        return Check.not_run(name, "frames", tolerance, reason, Kind.MEAN_IOU)
    before, after = (100 * float(np.nanmean(ious(found.judged[key]))) for key in ("fp32", "precision"))
    detail = f"points; {before:.3f} in fp32, {after:.3f} in {precision.value}"
    labelled = sum(frame.truth is not None for frame in subject.frames)
    return Check.at_most(name, f"{labelled} labelled frames", abs(after - before), tolerance, detail, Kind.MEAN_IOU)
