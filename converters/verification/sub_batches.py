"""Results must not depend on what else is in the sub-batch: a real class of faults, right for batch 1 only."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from converters.verification.probes import planes_of
from converters.verification.runs import TrunkRun, attempted
from converters.verification.subject import Subject, runnable
from engines.bundle.manifest import TrunkRecord
from engines.bundle.records import Check, Kind, Quantity
from engines.errors import BackendError
from engines.parity.checks import Question
from engines.parity.comparison import relative_error
from engines.schedules.schedule import Precision


def sub_batch_checks(subject: Subject) -> Iterator[Check]:
    """The default trunk, in each precision that runs here: a phase alone, twice in a sub-batch, among others."""
    trunk = subject.bundle.manifest.trunk()
    planes = attempted(partial(planes_of, subject.bundle, subject.frames[0].image))
    for precision in runnable(trunk):
        graph = trunk.graphs[precision]
        tolerance = subject.tolerance(precision).sub_batch
        question = Question(
            kind=Kind.SUB_BATCH,
            name=f"sub-batches of {graph}",
            subject=f"{subject.frames[0].name}, sub-batches of 1, 2 and 3",
            quantity=Quantity.LOGIT_ERROR,
            tolerance=tolerance,
            graph=graph,
            precision=precision,
        )
        if isinstance(planes, BackendError):
            yield question.ended(planes)
            continue
        errors = attempted(partial(_errors, subject, trunk, precision, planes))
        if isinstance(errors, BackendError):
            yield question.ended(errors)
            continue
        check = question.measured(max(errors.values()))
        wrong = [words for words, error in errors.items() if not error <= tolerance]
        yield check.located(f"{graph}: results depend on the sub-batch ({', '.join(wrong)})") if wrong else check


def _errors(
    subject: Subject, trunk: TrunkRecord, precision: Precision, planes: NDArray[np.float32]
) -> dict[str, float]:
    with TrunkRun(subject.bundle, trunk, precision) as run:
        group = run.grid.sub_batches(min(2, run.grid.largest_sub_batch))[0]
        a, b = group[0], group[-1]
        alone = run.raw(planes, [a])[0]
        pair = run.raw(planes, [a, b])
        three = run.raw(planes, [b, a, b])
    compared = {
        "alone against 2": (pair[0], alone),
        "alone against 3": (three[1], alone),
        "permuted": (three[0], pair[1]),
        "identical": (three[2], three[0]),
    }
    return {words: relative_error(*arrays) for words, arrays in compared.items()}
