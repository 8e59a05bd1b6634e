"""What is not finite, and what half precision cannot hold, with the layer it begins in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from converters.verification.runs import Results
from converters.verification.subject import Subject, refusal
from engines.bundle.records import Check, Kind, Quantity
from engines.errors import BackendError
from engines.parity.checks import Question
from engines.parity.tolerances import LARGEST_FP16
from engines.schedules.schedule import Precision

Magnitudes = dict[Precision, dict[str, float]]
"""Largest absolute value of every tensor of the default trunk; NaN or infinite where one is not finite."""


def magnitudes_of(results: Mapping[Precision, Results]) -> Magnitudes:
    """Over the phases of one frame."""
    return {precision: _largest(result.magnitudes for result in found.values()) for precision, found in results.items()}


def largest_magnitudes(frames: Iterable[Magnitudes]) -> Magnitudes:
    """Over all frames."""
    held = list(frames)
    precisions = dict.fromkeys(precision for frame in held for precision in frame)
    return {precision: _largest(frame[precision] for frame in held if precision in frame) for precision in precisions}


def magnitude_checks(
    subject: Subject, magnitudes: Magnitudes, broken: Mapping[Precision, BackendError]
) -> Iterator[Check]:
    """The largest value of every tensor of the default trunk, over all phases that were walked.

    ``broken`` says what ended the walk in a precision.
    """
    trunk = subject.bundle.manifest.trunk()
    where = f"{len(subject.frames)} frame{'s' if len(subject.frames) > 1 else ''}"
    for precision, graph in trunk.graphs.items():
        question = Question(
            kind=Kind.MAGNITUDE,
            name=f"NaN and Inf in {graph}",
            subject=where,
            quantity=Quantity.NOT_FINITE,
            tolerance=0,
            graph=graph,
            precision=precision,
        )
        if reason := refusal(precision):
            yield question.not_run(reason)
            continue
        if error := broken.get(precision):
            yield question.ended(error)
            continue
        spoilt = [name for name, magnitude in magnitudes[precision].items() if not math.isfinite(magnitude)]
        check = question.measured(len(spoilt))
        yield check.located(f"{graph}: {spoilt[0]}") if spoilt else check
    if Precision.FP16 in trunk.graphs:
        question = _overflow_question(trunk.graphs[Precision.FP16], where)
        error = broken.get(Precision.FP32)
        yield question.ended(error) if error else _overflow_check(question, magnitudes[Precision.FP32])


def _overflow_question(graph: str, where: str) -> Question:
    return Question(
        kind=Kind.MAGNITUDE,
        name="overflow of fp16",
        subject=where,
        quantity=Quantity.LARGEST_MAGNITUDE,
        tolerance=LARGEST_FP16,
        graph=graph,
        precision=Precision.FP16,
    )


def _overflow_check(question: Question, exact: Mapping[str, float]) -> Check:
    over = [name for name, magnitude in exact.items() if not magnitude <= LARGEST_FP16]
    at = over[0] if over else max(exact, key=lambda name: exact[name], default="")
    largest = 0.0
    for magnitude in exact.values():
        largest = _larger(largest, magnitude)
    check = question.measured(largest, f"in {at}")
    return check.located(at) if over else check


def _largest(tensors: Iterable[Mapping[str, float]]) -> dict[str, float]:
    largest: dict[str, float] = {}
    for held in tensors:
        for name, magnitude in held.items():
            largest[name] = _larger(largest.get(name, 0.0), magnitude)
    return largest


def _larger(a: float, b: float) -> float:
    """The larger of two; what is no number is larger than any."""
    return b if not b <= a else a
