"""Whether an error matters for the segmentation: labels, ties, boundaries, and mean IoU on labelled frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from converters.verification.subject import Agreement, Subject
from engines.manifest import Precision
from engines.metrics import ious, shift_of_labels
from engines.parity import Check, Kind, LabelAgreement


def label_checks(subject: Subject) -> Iterator[Check]:
    """For every precision beside fp32, over the frames that count."""
    for precision in subject.precisions:
        tolerance = subject.tolerance(precision)
        found = subject.findings.agreements.get(precision.value)
        name = f"labels of fp32 -> {precision.value}"
        if found is None or not found.pixels:
            yield Check.not_run(name, "frames", tolerance.label_agreement, "no logits to compare", Kind.LABELS)
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


def _words(found: Agreement, agreement: LabelAgreement) -> str:
    ties = f"{found.ties / found.differing:.0%} of the differing pixels are ties" if found.differing else "none differs"
    away, away_differing = found.pixels - found.near, found.differing - found.near_differing
    near = f"{found.near_differing / found.near:.3%}" if found.near else "no pixel"
    elsewhere = f"{away_differing / away:.3%}" if away else "no pixel"
    return f"{agreement}; {ties}; differing near class boundaries {near}, elsewhere {elsewhere}"


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
