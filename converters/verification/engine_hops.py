"""The last hop, ONNX in the target precision -> engine, where this machine can make it, and provenance where not."""

from __future__ import annotations

from collections.abc import Iterator

from converters.verification.subject import Subject
from engines.backends import BACKENDS
from engines.gpus import gpus
from engines.manifest import EngineRecord, Flavour
from engines.parity import Check
from engines.proof import backend_checks, provenance_checks
from engines.schedules import Schedule


def engine_checks(subject: Subject) -> Iterator[Check]:
    """Every engine: its record against the bundle's files, and its predictions against PyTorch's."""
    bundle = subject.bundle
    yield from provenance_checks(bundle)
    for engine in bundle.manifest.engines:
        lack = _lack(engine)
        if lack:
            bound = subject.tolerance(engine.precision).label_agreement
            yield Check.not_run(f"{engine.precision.value} graph -> engine", engine.engine, bound, lack)
            continue
        schedule = Schedule(engine.levels, engine.sub_batch, engine.lowering)
        yield from backend_checks(
            bundle, _backend(engine), engine.precision, schedule=schedule, overrides=subject.overrides
        )
    if not bundle.manifest.engines:
        for precision in subject.precisions or list(bundle.manifest.trunk().graphs):
            tolerance = subject.tolerance(precision).label_agreement
            yield Check.not_run(f"{precision.value} graph -> engine", "engines", tolerance, "the bundle has no engine")


def _backend(engine: EngineRecord) -> str:
    return "tensorrt" if engine.flavour is Flavour.TENSORRT else "tensorrt-rtx"


def _lack(engine: EngineRecord) -> str:
    if _backend(engine) not in BACKENDS:
        return f"this release does not run engines of {engine.flavour.value}"
    return "" if gpus() else "there is no NVIDIA GPU"
