"""Whether an error matters for the segmentation: labels, ties, boundaries, and mean IoU on labelled frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from converters.verification.agreements import Agreement, ComparedLabels
from converters.verification.subject import Subject, refusal
from engines.bundle.records import Check, Kind, Quantity, Tolerance
from engines.errors import BackendError
from engines.parity.checks import Question
from engines.parity.metrics import ious, shift_of_labels
from engines.parity.tolerances import MOST_UNDECIDED
from engines.schedules.schedule import Precision


def label_checks(
    subject: Subject,
    compared: Sequence[ComparedLabels],
    agreements: Mapping[Precision, Agreement],
    broken: Mapping[Precision, BackendError],
) -> Iterator[Check]:
    """For every precision beside fp32: its labels over the frames that are judged, and what people gave.

    ``broken`` says what ended the walk in a precision.
    """
    for precision in subject.precisions:
        tolerance, found = subject.tolerance(precision), agreements.get(precision)
        error = broken.get(precision) or broken.get(Precision.FP32)
        if error or found is None or not found.pixels:
            question = _question(subject, precision, "frames", tolerance.label_agreement)
            reason = refusal(precision)
            yield question.ended(error) if error and not reason else question.not_run(reason or "no logits to compare")
            continue
        frames = f"{len(subject.judged)} frame{'s' if len(subject.judged) > 1 else ''}, {found.pixels} pixels"
        question = _question(subject, precision, frames, tolerance.label_agreement)
        check = _judged(question, found, precision, tolerance)
        yield check.located(_location(subject, precision, compared, found)) if check.failed else check
        yield _mean_iou(subject, precision, found)


def _judged(question: Question, found: Agreement, precision: Precision, tolerance: Tolerance) -> Check:
    """Of all pixels; in int8, where these do not agree, of those whose best two classes it can tell apart."""
    check = question.measured(found.shares.judged(tolerance), _words(found))
    if not check.failed or precision is not Precision.INT8:
        return check
    share = found.undecided / found.pixels
    decided = question.measured(found.decided, f"{_words(found)}; without {share:.1%} whose best two classes are close")
    if decided.failed or share <= MOST_UNDECIDED:
        return decided
    return question.not_run(
        f"the best two classes of {share:.1%} of the pixels are closer than int8 moves them, as in a network that is "
        f"not trained; of the others {found.decided:.4%} have the same label ({_words(found)})"
    )


def _question(subject: Subject, precision: Precision, where: str, tolerance: float) -> Question:
    return Question(
        kind=Kind.LABELS,
        name=f"labels of fp32 -> {precision.value}",
        subject=where,
        quantity=Quantity.LABEL_AGREEMENT,
        tolerance=tolerance,
        graph=subject.bundle.manifest.trunk().graphs[precision],
        precision=precision,
    )


def _words(found: Agreement) -> str:
    tied = f"{found.ties / found.differing:.0%} of the differing pixels are ties" if found.differing else "none differs"
    away, away_differing = found.pixels - found.near, found.differing - found.near_differing
    near = f"{found.near_differing / found.near:.3%}" if found.near else "no pixel"
    elsewhere = f"{away_differing / away:.3%}" if away else "no pixel"
    return f"{found.shares}; {tied}; differing near class boundaries {near}, elsewhere {elsewhere}"


def _location(subject: Subject, precision: Precision, compared: Sequence[ComparedLabels], found: Agreement) -> str:
    for labels in compared:
        if labels.precision is precision:
            shift = shift_of_labels(labels.actual.astype(np.int64), labels.expected.astype(np.int64))
            if shift is not None:
                return f"labels are shifted by {shift} (rows, columns) on {labels.frame.name}"
    wrong = found.confusion.sum(1) - np.diag(found.confusion)
    name = subject.bundle.manifest.classes[int(wrong.argmax())].name
    phase = ""
    if found.by_phase is not None and np.nanmax(found.by_phase) > 0:
        row, column = np.unravel_index(int(np.nanargmax(found.by_phase)), found.by_phase.shape)
        phase = f", phase {(int(row), int(column))}"
    return f"most in class {name}{phase}"


def _mean_iou(subject: Subject, precision: Precision, found: Agreement) -> Check:
    labelled = sum(frame.truth is not None for frame in subject.frames)
    question = Question(
        kind=Kind.MEAN_IOU,
        name=f"mean IoU of fp32 -> {precision.value}",
        subject=f"{labelled} labelled frames" if found.judged else "frames",
        quantity=Quantity.MEAN_IOU_CHANGE,
        tolerance=subject.tolerance(precision).mean_iou,
        graph=subject.bundle.manifest.trunk().graphs[precision],
        precision=precision,
    )
    if not found.judged:
        return question.not_run("no labelled frames were given")
    before, after = (100 * float(np.nanmean(ious(found.judged[key]))) for key in ("fp32", "precision"))
    return question.measured(abs(after - before), f"{before:.3f} in fp32, {after:.3f} in {precision.value}")
