"""What all records of a bundle say together."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from engines.bundle.bundle import Bundle
from engines.bundle.records import Proven, Status, Validation
from engines.bundle.standing import Standing, compared


class Verdict(enum.Enum):
    """Of a bundle, by its records."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"
    STALE = "stale"
    """The record is of other bytes than the bundle's."""
    FOREIGN = "foreign"
    """The record is of another network."""


@dataclass(frozen=True)
class Judgement:
    """A verdict, and the sentence that says why."""

    verdict: Verdict
    headline: str


def judged(bundle: Bundle, record: Validation, proofs: Mapping[Proven, Validation]) -> Judgement:
    """The bundle's own validation decides, if it is of these bytes, and every backend's proof that failed.

    Args:
        bundle: as it is now.
        record: its last validation.
        proofs: those of backends on a target.
    """
    comparison = compared(record, bundle)
    if comparison.standing is not Standing.CURRENT:
        return Judgement(Verdict(comparison.standing.value), comparison.words)
    if record.verdict is not Status.FAILED:
        for proven, proof in proofs.items():
            if proof.verdict is Status.FAILED and compared(proof, bundle).standing is Standing.CURRENT:
                return Judgement(Verdict.FAILED, f"on {proven}: {_counted(proof)}, where it was proven on a target")
    return Judgement(Verdict(record.verdict.value), "; ".join(filter(None, (_counted(record), comparison.words))))


def _counted(record: Validation) -> str:
    """The verdict of one record in words."""
    if record.verdict is Status.FAILED:
        return f"{record.counts[Status.FAILED]} of {len(record.checks)} checks failed"
    if record.verdict is Status.NOT_RUN:
        return "no check could run"
    missing = record.counts[Status.NOT_RUN]
    proven = f"all {record.counts[Status.PASSED]} checks that ran passed"
    return proven + (f"; {missing} could not run" if missing else "")
