"""Sub-batches of the default trunk on a sample of a real frame's phases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from converters.verification.groups import listed
from converters.verification.runs import TrunkRun, attempted
from converters.verification.subject import Subject, runnable
from engines.bundle.manifest import TrunkRecord
from engines.bundle.records import Check, Kind, Quantity
from engines.errors import BackendError
from engines.parity.checks import Question
from engines.parity.comparison import largest_error, largest_logit
from engines.schedules.phases import Phase, PhaseGrid
from engines.schedules.schedule import Precision

_REAL = 3
"""Phases of a real frame that are computed together."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """Phases of a real frame that the default trunk computed alone, to be computed in sub-batches as well."""

    planes: NDArray[np.float32]
    phases: list[Phase]
    """That can go together."""
    alone: dict[Precision, list[NDArray[np.float32]]]
    """Logits of each phase; absent where a precision broke."""


def sampled_phases(grid: PhaseGrid, rotation: int) -> list[Phase]:
    """As many as :func:`real_frame_checks` takes, others for every rotation."""
    groups = grid.sub_batches(grid.largest_sub_batch)
    group = groups[rotation % len(groups)]
    start = rotation * _REAL % len(group)
    return [*group[start:], *group[:start]][:_REAL]


def real_frame_checks(subject: Subject, sampled: Sampled) -> Iterator[Check]:
    """The default trunk on a sample of the first frame's phases, in sub-batches of 2 and of all of them."""
    trunk, phases = subject.bundle.manifest.trunk(), sampled.phases
    for precision in runnable(trunk):
        graph = trunk.graphs[precision]
        question = Question(
            kind=Kind.SUB_BATCH,
            name=f"sub-batches of {graph}",
            subject=f"{subject.frames[0].name}, a sample: {', '.join(map(str, phases))}; rotation {subject.rotation}",
            quantity=Quantity.LOGIT_ERROR,
            tolerance=subject.tolerance(precision).sub_batch,
            graph=graph,
            precision=precision,
        )
        if precision not in sampled.alone:
            yield question.not_run("the phases could not be computed alone")
            continue
        errors = attempted(partial(_real_errors, subject, trunk, precision, sampled))
        if isinstance(errors, BackendError):
            yield question.ended(errors)
            continue
        check = question.measured(max(errors.values()))
        wrong = [size for size, error in errors.items() if not error <= question.tolerance]
        yield (
            check.located(f"{graph}: results depend on the sub-batch (wrong in sub-batches of {listed(wrong)})")
            if wrong
            else check
        )


def _real_errors(subject: Subject, trunk: TrunkRecord, precision: Precision, sampled: Sampled) -> dict[int, float]:
    alone, phases = sampled.alone[precision], sampled.phases
    scale = max(largest_logit(logits) for logits in alone) or 1.0
    errors: dict[int, float] = defaultdict(float)
    with TrunkRun(subject.bundle, trunk, precision) as run:
        # Backwards, and with one of them twice: results may depend on the place, too.
        for order in ([1, 0], [*reversed(range(len(phases))), 0]) if len(phases) > 1 else ([0, 0],):
            results = run.together([(sampled.planes, phases[index]) for index in order])
            for index, result in zip(order, results, strict=True):
                error = float("inf") if result.logits is None else largest_error(result.logits, alone[index]) / scale
                errors[len(order)] = max(errors[len(order)], error)
    return errors
