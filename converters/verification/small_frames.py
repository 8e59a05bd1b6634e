"""All that is run on small frames, and what is said where the graphs have no form for one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from converters.verification.forms import FrameForm, small_forms
from converters.verification.generated import SmallFrames
from converters.verification.own_errors import own_error_checks
from converters.verification.resizing import ResizingError
from converters.verification.runs import attempted
from converters.verification.sub_batches import batch_check, phase_checks
from converters.verification.subject import Subject
from engines.bundle.records import Check, Kind, Quantity
from engines.errors import BackendError
from engines.parity.checks import Question
from engines.schedules.schedule import Precision


def left_out(subject: Subject) -> Check:
    """What a quick proof says of what it does not do."""
    count = sum(len(trunk.graphs) for trunk in subject.bundle.manifest.trunks)
    return _question(subject).not_run(
        f"left out by quick=True: every phase, offset and sub-batch of {count} graphs, each operator's own error, and "
        "frames at the edges of what a camera gives"
    )


def _question(subject: Subject) -> Question:
    manifest = subject.bundle.manifest
    return Question(
        kind=Kind.SUB_BATCH,
        name="every phase and sub-batch of every trunk",
        subject="generated frames",
        quantity=Quantity.LOGIT_ERROR,
        tolerance=subject.tolerance(Precision.FP32).sub_batch,
        graph=manifest.model,
        precision=Precision.FP32,
    )


def small_frame_checks(subject: Subject) -> Iterator[Check]:
    """Every phase, offset and sub-batch of every trunk; where that cannot be, one check that says so."""
    question = _question(subject)
    reason: object = "the frame is too large"
    for form in small_forms(subject.bundle):
        # What a network cannot pad may show only when it runs.
        frames = form if isinstance(form, ResizingError) else attempted(partial(SmallFrames.of, form))
        if isinstance(frames, SmallFrames):
            yield batch_check(subject, frames)
            yield from phase_checks(subject, frames)
            yield from own_error_checks(subject, frames.form, frames.planes[0])
            return
        reason = frames
        if isinstance(form, FrameForm) and form.own:
            yield question.ended(BackendError(str(reason)))
            return
    yield question.not_run(f"the graphs cannot be run on a small frame: {reason}; a sample of the real frame was")
