"""The last hop, ONNX in the target precision -> engine, where this machine can make it, and provenance where not."""

from __future__ import annotations

from collections.abc import Iterator

from converters.verification.subject import Subject
from engines.bundle.manifest import EngineRecord
from engines.devices.gpus import gpus
from engines.errors import MachineError
from engines.parity.checks import Check
from engines.proof import backend_checks, provenance_checks
from engines.schedules.schedule import Precision


def engine_checks(subject: Subject) -> Iterator[Check]:
    """Every engine: its record against the bundle's files, and its predictions against PyTorch's."""
    bundle = subject.bundle
    yield from provenance_checks(bundle)
    for engine in bundle.manifest.engines:
        yield from _predictions_checks(subject, engine)
    if not bundle.manifest.engines:
        for precision in subject.precisions or list(bundle.manifest.trunk().graphs):
            yield _not_run(subject, precision, "engines", "the bundle has no engine")


def _predictions_checks(subject: Subject, engine: EngineRecord) -> Iterator[Check]:
    if not gpus():
        yield _not_run(subject, engine.precision, engine.engine, "there is no NVIDIA GPU")
        return
    try:
        yield from backend_checks(
            subject.bundle, engine.backend, engine.precision, schedule=engine.schedule, overrides=subject.overrides
        )
    except MachineError as error:
        # A bundle may hold engines for several targets: the others say nothing of this one's.
        yield _not_run(subject, engine.precision, engine.engine, str(error))


def _not_run(subject: Subject, precision: Precision, where: str, reason: str) -> Check:
    bound = subject.tolerance(precision).label_agreement
    return Check.not_run(f"{precision.value} graph -> engine", where, bound, reason)
