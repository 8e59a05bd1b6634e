"""The last hop, ONNX in the target precision -> engine, where this machine can make it, and provenance where not."""

from __future__ import annotations

from collections.abc import Iterator

from converters.verification.subject import Subject
from engines.backends import backend_named
from engines.bundle.manifest import EngineRecord
from engines.bundle.records import Check, Quantity
from engines.devices.gpus import gpus
from engines.errors import MachineError, WorkFailed
from engines.parity.checks import Question
from engines.proof import provenance_checks, session_checks
from engines.schedules.schedule import Precision
from engines.session import Session


def engine_checks(subject: Subject) -> Iterator[Check]:
    """Every engine: its record against the bundle's files, and its predictions against PyTorch's."""
    bundle = subject.bundle
    yield from provenance_checks(bundle, bundle.engines)
    for engine in bundle.engines:
        yield from _predictions_checks(subject, engine)
    if not bundle.engines:
        for precision in subject.precisions or list(bundle.manifest.trunk().graphs):
            yield _question(subject, precision, "engines").not_run("the bundle has no engine")


def _predictions_checks(subject: Subject, engine: EngineRecord) -> Iterator[Check]:
    question = _question(subject, engine.precision, engine.engine)
    if not gpus():
        yield question.not_run("there is no NVIDIA GPU")
        return
    backend, precision = backend_named(engine.backend), engine.precision
    try:
        session = Session.open(subject.bundle, backend, precision=precision, schedule=engine.schedule)
    except WorkFailed as error:
        yield question.broke(error)
        return
    except MachineError as error:
        # A bundle may hold engines for several targets: the others say nothing of this one's.
        yield question.not_run(str(error))
        return
    # What breaks from here on is a failure, too.
    yield from session_checks(session, backend, precision, subject.tolerance(precision))


def _question(subject: Subject, precision: Precision, where: str) -> Question:
    return Question.of_hop(
        f"{precision.value} graph",
        "engine",
        where,
        subject.tolerance(precision).label_agreement,
        quantity=Quantity.LABEL_AGREEMENT,
        graph=subject.bundle.manifest.trunk().graphs.get(precision.graph),
        precision=precision,
    )
