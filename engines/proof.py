"""The proof on the target: a backend against the stored outputs of PyTorch, without PyTorch and without ``onnx``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backends import backend_named
from engines.backends.base import Backend
from engines.backends.base import Kind as BackendKind
from engines.backends.versions import tool_versions
from engines.bundle.bundle import Bundle
from engines.bundle.comparing import build_record_of
from engines.bundle.manifest import EngineRecord, OutputKind, ReferenceRecord
from engines.bundle.provenance import other_files
from engines.bundle.records import (
    Check,
    Kind,
    Proven,
    Quantity,
    Tolerance,
    Validation,
    json_from_record,
)
from engines.errors import BundleError, MachineError, WorkFailed
from engines.parity.checks import Question
from engines.parity.comparison import (
    label_agreement,
    logit_error,
    relative_error,
    share_of_ties,
    softmax,
    ties,
    undecided,
)
from engines.parity.metrics import by_phase, shift_of_labels
from engines.parity.tolerances import INT8_MARGIN, MOST_UNDECIDED, TOLERANCES, tolerance_of
from engines.parity.validation import OnCheck, validation_from_checks
from engines.planning.choice import session_schedule
from engines.schedules.schedule import Precision, Schedule, named
from engines.session import Session

_ERRORS = {OutputKind.LOGITS: Quantity.LOGIT_ERROR, OutputKind.PROBABILITIES: Quantity.PROBABILITY_ERROR}


def prove(
    bundle: Bundle | str | Path,
    backend: str | Backend,
    precision: Precision | str = Precision.FP32,
    *,
    schedule: Schedule | None = None,
    memory: int | str | None = None,
    device: str | None = None,
    tolerances: Mapping[str, float] | None = None,
    on_check: OnCheck = lambda check: None,
    command: str = "",
    keep: bool = True,
) -> Validation:
    """Compare a backend with PyTorch's outputs for the bundle's reference frames, and its engine with what it is of.

    Where nothing is named, a GPU runs every schedule that the backend has in the bundle: its kernels are chosen by the
    shapes, so one schedule says nothing of another. Their whole frames are compared with one another, too.

    Args:
        bundle: an open bundle, or the path of one, whose files are then verified.
        backend: its name, or the backend.
        precision: of the trunk.
        schedule: what is walked; by default every schedule on a GPU, and elsewhere what
            :func:`engines.choose_schedule` chooses.
        memory: a budget to choose one from, as for :meth:`Session.open`.
        device: ``"cuda:1"`` say; the backend's first by default.
        tolerances: figures of :class:`Tolerance` by name, in place of the table's.
        on_check: called with every check as soon as it is made.
        command: how a person makes this record again, to be written into it.
        keep: write the record into the bundle's ``reports/``, under the name that :class:`Proven` gives it. It takes
            the place of an older one of the same backend, precision and schedule, and of no other.

    Raises:
        BundleError: the bundle is damaged, or has no trunk of this schedule and precision.
        InputError: an unknown backend or tolerance.
        MachineError: the backend cannot be opened here. What breaks when it works is a check that failed.
        OutputError: the record cannot be written.
    """
    started = time.monotonic()
    on, arithmetic = backend_named(backend), named(Precision, "precision", precision)
    opened = Bundle.of(bundle)
    if keep:
        # Said before the work, not after it.
        opened.check_reports()
    schedules = on.schedules(opened, arithmetic)
    every = on.kind is BackendKind.GPU and (schedule, memory) == (None, None) and bool(schedules)
    if not every:
        schedules = [session_schedule(opened, on, arithmetic, schedule, memory=memory, device=device)]
    uses, checks = {(on.name, arithmetic, held) for held in schedules}, []
    for check in chain(
        provenance_checks(opened, [engine for engine in opened.engines if engine.use in uses]),
        backend_checks(opened, on, arithmetic, schedules, memory=memory, device=device, overrides=tolerances),
    ):
        on_check(check)
        checks.append(check)
    validation = validation_from_checks(
        opened,
        checks,
        seconds=time.monotonic() - started,
        overrides=tolerances or {},
        frames=[f"reference frame {index}" for index in range(len(opened.manifest.reference))],
        commands=[command] if command else [],
        tools=tool_versions(),
    )
    if keep:
        proven = Proven(on.name, arithmetic, None if every else schedules[0])
        opened.write_report(proven.file, json_from_record(validation))
    return validation


def provenance_checks(bundle: Bundle, engines: Iterable[EngineRecord]) -> Iterator[Check]:
    """Build records of engines against their bundle: built from these graphs and these weights."""
    for engine in engines:
        yield _provenance_check(bundle, engine)


def _provenance_check(bundle: Bundle, engine: EngineRecord) -> Check:
    question = Question(
        kind=Kind.PROVENANCE,
        name="provenance of the engine",
        subject=engine.engine,
        quantity=Quantity.OTHER_HASHES,
        tolerance=0,
        graph=engine.engine,
        precision=engine.precision,
    )
    try:
        record = build_record_of(bundle, engine)
    except BundleError as error:
        return question.broke(error).located(engine.record)
    wrong = other_files(bundle, engine, record)
    check = question.measured(
        len(wrong), f"of graph, weights, prepare and both plans; the engine computes in {record.effective_precision}"
    )
    return check.located(f"{engine.engine}: built from other {' and '.join(wrong)}") if wrong else check


def backend_checks(
    bundle: Bundle,
    backend: Backend,
    precision: Precision,
    schedules: Iterable[Schedule],
    *,
    memory: int | str | None = None,
    device: str | None = None,
    overrides: Mapping[str, float] | None = None,
) -> Iterator[Check]:
    """A backend's predictions against PyTorch's outputs for the bundle's reference frames, in each of the schedules.

    The first one's whole frames are what those of the others are compared with.

    Work that began and broke, when a session was opened or later, is a check that failed. A schedule that does not
    open, an engine of another GPU say, was not run; where none does, what :meth:`Session.open` raises for the first is
    raised: a backend that was asked for and is not there is an error.
    """
    tolerance, wanted = tolerance_of(precision, overrides), list(schedules)
    frames = WholeFrames() if len(wanted) > 1 else None
    unopened: list[tuple[_Proof, MachineError]] = []
    for schedule in wanted:
        proof = _Proof(bundle, backend, precision, schedule, tolerance)
        try:
            session = Session.open(
                bundle, backend, precision=precision, schedule=schedule, memory=memory, device=device
            )
        except WorkFailed as error:
            yield from (question.broke(error) for question in proof.all_questions())
            continue
        except MachineError as error:
            unopened.append((proof, error))
            continue
        if unproven := backend.unproven(precision):
            session.close()
            yield from (question.not_run(unproven) for question in proof.all_questions())
            continue
        yield from session_checks(session, backend, precision, tolerance, frames)
    if unopened and len(unopened) == len(wanted):
        raise unopened[0][1]
    for proof, reason in unopened:
        yield from (question.not_run(str(reason)) for question in proof.all_questions())


class WholeFrames:
    """Predictions of whole reference frames in one schedule, by the frame's number: for others to be compared with."""

    def __init__(self) -> None:
        self.schedule: Schedule | None = None
        self.predictions: dict[int, NDArray[Any]] = {}


def session_checks(
    session: Session,
    backend: Backend,
    precision: Precision,
    tolerance: Tolerance,
    frames: WholeFrames | None = None,
) -> Iterator[Check]:
    """The predictions of an open session against PyTorch's outputs; the session is closed in the end.

    What breaks from here on is a failure: the session was there, and its work began. With ``frames`` they are also
    compared with those there, or are those from now on.
    """
    proof = _Proof(session.bundle, backend, precision, session.schedule, tolerance)
    if frames is not None and frames.schedule is None:
        frames.schedule = session.schedule
    questions: list[Question] = []
    try:
        for index, case in enumerate(session.manifest.reference):
            questions = proof.questions(index, case)
            image, logits = session.bundle.reference_arrays(case)
            try:
                prediction = session.predict(image)
            except MachineError as error:
                yield from (question.broke(error) for question in questions)
                continue
            yield from proof.answers(questions, case, prediction, logits)
            if frames is None:
                continue
            if frames.schedule == session.schedule:
                frames.predictions[index] = prediction
            elif index in frames.predictions:
                yield from proof.against(frames, index, prediction, logits)
        try:
            session.close()
        except MachineError as error:
            yield from (question.broke(error) for question in questions)
    finally:
        # What a broken device says when it is left adds nothing to what has failed.
        with suppress(MachineError):
            session.close()


@dataclass(frozen=True)
class _Proof:
    """What runs, and what it is held to."""

    bundle: Bundle
    backend: Backend
    precision: Precision
    schedule: Schedule
    tolerance: Tolerance

    @property
    def graph(self) -> str | None:
        """The file that the backend runs, or that its engine is of."""
        graphs = self.bundle.manifest.trunk_of(self.schedule).graphs
        return graphs.get(self.backend.graph_precision(self.precision))

    def all_questions(self) -> list[Question]:
        """Of every reference frame."""
        cases = enumerate(self.bundle.manifest.reference)
        return [question for index, case in cases for question in self.questions(index, case)]

    def questions(self, index: int, case: ReferenceRecord) -> list[Question]:
        """Whether the labels agree; before that the error of what the bundle gives, where that is more than labels."""
        kind = self.bundle.manifest.outputs
        labels = Question.of_hop(
            "PyTorch",
            f"{self.backend}, {self.precision.value}",
            f"reference frame {index}, phase {case.phase}, {self.schedule}",
            self.tolerance.label_agreement,
            quantity=Quantity.LABEL_AGREEMENT,
            graph=self.graph,
            precision=self.precision,
        )
        used = [self._rounding(index, case)] if self.precision is Precision.TF32 else []
        if kind is OutputKind.LABELS:
            return [labels, *used]
        return [replace(labels, quantity=_ERRORS[kind], tolerance=self.tolerance.logits), labels, *used]

    def _rounding(self, index: int, case: ReferenceRecord) -> Question:
        """Whether TF32 was used: its results are further from PyTorch's than single precision may be.

        It is a setting that a runtime may ignore, or that an older GPU has no units for; all else is as in fp32.
        """
        return Question(
            kind=Kind.PRECISION,
            name=f"{self.precision.value} is used",
            subject=f"reference frame {index}, phase {case.phase}, {self.schedule}",
            quantity=Quantity.ROUNDING,
            tolerance=TOLERANCES[Precision.FP32].logits,
            graph=self.graph,
            precision=self.precision,
        )

    def answers(
        self, questions: list[Question], case: ReferenceRecord, prediction: NDArray[Any], logits: NDArray[np.float32]
    ) -> Iterator[Check]:
        """By a prediction of the whole frame and PyTorch's logits of the case's phase."""
        (row, column), (h, w) = case.phase, case.window
        actual = prediction[..., row::h, column::w]
        # The padded pixels of the phase are cropped in a prediction, so they are cropped here too.
        expected = logits[:, : actual.shape[-2], : actual.shape[-1]]
        for question in questions:
            if question.quantity is Quantity.LABEL_AGREEMENT:
                yield self._of_labels(question, actual, expected)
            elif question.quantity is Quantity.ROUNDING and self.bundle.manifest.outputs is not OutputKind.LOGITS:
                yield question.not_run("logits tell TF32 from fp32, and this bundle does not give them")
            else:
                given = np.asarray(actual, np.float32)
                probabilities = question.quantity is Quantity.PROBABILITY_ERROR
                yield question.measured(
                    relative_error(given, softmax(expected)) if probabilities else logit_error(given, expected)
                )

    def against(
        self, frames: WholeFrames, index: int, prediction: NDArray[Any], logits: NDArray[np.float32]
    ) -> Iterator[Check]:
        """A whole frame against that of the first schedule: all phases, where PyTorch's outputs may be of one.

        Both may be off by what the precision allows. Labels differ where PyTorch's logits are nearly tied, too; of
        that each is forgiven as much as against PyTorch.
        """
        known, kind, tolerance = frames.predictions[index], self.bundle.manifest.outputs, self.tolerance
        question = Question.of_hop(
            f"{self.backend}, {self.precision.value}, {frames.schedule}",
            str(self.schedule),
            f"reference frame {index}, every phase",
            2 * tolerance.logits,
            graph=self.graph,
            precision=self.precision,
        )
        if kind is not OutputKind.LABELS:
            of = logit_error if kind is OutputKind.LOGITS else relative_error
            yield replace(question, quantity=_ERRORS[kind]).measured(of(prediction, known))
            prediction, known = prediction.argmax(0), known.argmax(0)
        forgiven = min(share_of_ties(logits, 2 * tolerance.of_ties), 2 * tolerance.ties)
        lowest = 1 - 2 * (1 - tolerance.label_agreement) - forgiven
        yield replace(question, quantity=Quantity.LABEL_AGREEMENT, tolerance=lowest).measured(
            float((prediction == known).mean()), f"{forgiven:.3%} are forgiven: PyTorch's labels are nearly tied there"
        )

    def _of_labels(self, question: Question, actual: NDArray[Any], expected: NDArray[np.float32]) -> Check:
        labels, right = actual if actual.ndim == 2 else np.nan_to_num(actual).argmax(0), expected.argmax(0)
        agreement = label_agreement(labels, expected, self.tolerance.of_ties)
        check = question.measured(agreement.judged(self.tolerance), str(agreement))
        if check.failed and self.precision is Precision.INT8:
            check = self._of_decided(question, labels, expected)
        if check.failed:
            return check.located(_location(self.bundle, labels, right, self.backend))
        dead = float(np.bincount(right.ravel()).max() / right.size)
        if dead >= self.tolerance.label_agreement:
            return question.not_run(
                f"one class has {dead:.3%} of PyTorch's labels here, so an output that is dead would pass; export the "
                "bundle with frames that show several classes"
            )
        return check

    def _of_decided(self, question: Question, labels: NDArray[Any], expected: NDArray[np.float32]) -> Check:
        """In int8: at the pixels whose best two classes it can be expected to tell apart."""
        unclear = undecided(expected, INT8_MARGIN / 2)
        wrong = (labels != expected.argmax(0)) & ~ties(labels, expected, INT8_MARGIN / 2)
        share, clear = float(unclear.mean()), max(int((~unclear).sum()), 1)
        decided = 1 - min(1.0, float(wrong.sum()) / clear)
        check = question.measured(decided, f"without {share:.1%} of the pixels, whose best two classes are close")
        if check.failed or share <= MOST_UNDECIDED:
            return check
        return question.not_run(
            f"PyTorch's best two classes are close at {share:.1%} of the pixels, as in a network that is not "
            f"trained; of the others {decided:.4%} have the same label"
        )


def _location(bundle: Bundle, actual: NDArray[Any], expected: NDArray[Any], backend: Backend) -> str:
    shift = shift_of_labels(actual.astype(np.int64), expected)
    if shift is not None:
        return f"{backend}: labels are shifted by {shift} (rows, columns)"
    window = bundle.manifest.windows[-1] if bundle.manifest.windows else (1, 1)
    errors = by_phase(actual != expected, window)
    row, column = np.unravel_index(int(np.nanargmax(errors)), errors.shape)
    return f"{backend}: {np.nanmax(errors):.1%} of the labels at phase {(int(row), int(column))} differ"
