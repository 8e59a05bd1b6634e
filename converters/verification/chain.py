"""The chain PyTorch fp32 -> ONNX fp32 -> ONNX in the target precision, each hop with an error of its own.

The default trunk is walked over all frames (:mod:`converters.verification.walking`). Trunks of other levels and
lowerings are run at the phase that PyTorch computed for the first frame, or at up to 16 of the phases that it consists
of, others every day; the whole graph is run on the first frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import ParamSpec

import numpy as np
from numpy.typing import NDArray

from converters.graphs.stages import Normalization
from converters.reference import phase_logits
from converters.verification import locating
from converters.verification.outputs import OUTPUT_QUANTITIES, expected_output, output_error
from converters.verification.probes import planes_of
from converters.verification.runs import (
    Ran,
    attempted,
    lack_of_memory,
    logits_of,
    merged,
    opened_run,
    ran,
    whole_logits,
)
from converters.verification.subject import Frame, Subject, refusal, runnable
from converters.verification.walking import WalkedFrame
from engines.bundle.manifest import OutputKind, TrunkRecord
from engines.bundle.records import Check, Kind
from engines.errors import BackendError
from engines.parity.checks import Question
from engines.parity.comparison import assembled_at, largest_logit, logit_error, phases_at
from engines.schedules.phases import Phase, PhaseGrid
from engines.schedules.schedule import Precision

_P = ParamSpec("_P")

_MOST_PHASES = 16
"""Of a trunk that is not the default one."""

EXACT = 1e-6

PYTORCH = "PyTorch"
"""The source of a hop from the network itself begins so."""

_OTHER_ORDER = "the graph's split batches have another order"


def unrunnable_checks(subject: Subject) -> Iterator[Check]:
    """The hops to precisions that cannot be judged in ONNX Runtime on this CPU."""
    trunk = subject.bundle.manifest.trunk()
    for precision in subject.precisions:
        if reason := refusal(precision):
            yield _precision_question(subject, trunk, precision, "all frames").not_run(reason)


def frame_checks(subject: Subject, walked: WalkedFrame) -> Iterator[Check]:
    """The hops of the default trunk on one frame."""
    trunk, frame = subject.bundle.manifest.trunk(), walked.frame
    if frame.logits is not None:
        yield _torch_hop(subject, trunk, frame, walked.exact, PYTORCH)
    if subject.network is not None:
        anew = computed_anew(subject, frame)
        yield from stored_checks(subject, frame, anew)
        yield _torch_hop(subject, trunk, anew, walked.exact, f"{PYTORCH}, run anew")
    for precision, results in walked.ran.items():
        yield _output_check(subject, trunk, precision, frame, results)
        if precision is not Precision.FP32:
            yield _precision_hop(subject, trunk, precision, frame, walked.exact, results)


def stored_checks(subject: Subject, frame: Frame, anew: Frame) -> Iterator[Check]:
    """The logits that the bundle holds against those of the network: they may have been made from faulty graphs."""
    if frame.case is None or frame.logits is None or anew.logits is None:
        return
    name, bound = frame.case.logits, subject.tolerance(Precision.FP32)
    question = Question.of_hop(
        f"{PYTORCH}, run anew",
        name,
        f"{frame.name}, phase {frame.case.phase}",
        bound.of_logits(largest_logit(anew.logits)),
        graph=name,
    )
    if anew.logits.shape != frame.logits.shape:
        yield question.misshapen(frame.logits.shape, anew.logits.shape)
        return
    check = question.measured(logit_error(frame.logits, anew.logits))
    yield check.located(f"{name}: not what the network computes for it") if check.failed else check


def whole_checks(subject: Subject, exact: Ran) -> Iterator[Check]:
    """``model.onnx`` on the first frame: against PyTorch, and against ``exact``, all phases of the default trunk."""
    manifest, frame, trunk = subject.bundle.manifest, subject.frames[0], subject.bundle.manifest.trunk()
    bound = subject.tolerance(Precision.FP32)
    graph, phases_of = manifest.model, f"merged phases of {trunk.graphs[Precision.FP32]}"
    of_whole = Question.of_hop(PYTORCH, graph, frame.name, bound.logits, graph=graph)
    of_merge = Question.of_hop(graph, phases_of, frame.name, bound.logits, graph=graph)
    if lack := lack_of_memory(subject.bundle):
        yield from (question.not_run(lack) for question in (of_whole, of_merge))
        return
    whole = attempted(partial(whole_logits, subject.bundle, frame.image))
    if isinstance(whole, BackendError):
        for question in (of_whole, of_merge):
            yield question.ended(whole)
        return
    wanted = (len(manifest.classes), *manifest.input.size)
    if whole.shape != wanted:
        yield from (question.misshapen(whole.shape, wanted) for question in (of_whole, of_merge))
        return
    tolerance = bound.of_logits(largest_logit(whole))
    if frame.case is not None and frame.logits is not None:
        (row, column), (h, w) = frame.case.phase, frame.case.window
        actual = whole[:, row::h, column::w]
        # The padded pixels of the phase are cropped in the whole graph, so they are cropped here too.
        expected = frame.logits[:, : actual.shape[1], : actual.shape[2]]
        where = f"{frame.name}, phase {frame.case.phase}"
        question = Question.of_hop(PYTORCH, graph, where, tolerance, graph=graph)
        check = question.measured(logit_error(actual, expected))
        yield _located(check, locating.in_model, subject, trunk, frame, whole)
    if isinstance(exact, BackendError):
        yield of_merge.ended(exact)
        return
    if any(result.logits is None for result in exact.values()):
        yield of_merge.not_run("the split batches have another order")
        return
    phases = merged(manifest.grid(trunk), logits_of(exact))
    check = of_merge.held_to(tolerance).measured(logit_error(phases, whole))
    yield _located(check, locating.in_merge, subject, trunk, frame, phases, whole)


def other_trunk_checks(subject: Subject) -> Iterator[Check]:
    """The hops of every trunk but the default one, on the first frame."""
    frame = subject.frames[0]
    if frame.case is None:
        return
    planes = attempted(partial(planes_of, subject.bundle, frame.image))
    default = subject.bundle.manifest.trunk()
    for trunk in subject.bundle.manifest.trunks:
        if trunk == default:
            continue
        grid = subject.bundle.manifest.grid(trunk)
        shared = set(phases_at(grid.window, frame.case.phase, frame.case.window))
        # The walk is dispersed, so those that follow each other lie far from each other; others every day.
        walk = [phases[0] for phases in grid.sub_batches(1) if phases[0] in shared]
        start = subject.rotation * _MOST_PHASES % len(walk)
        phases = [*walk[start:], *walk[:start]][:_MOST_PHASES]
        exact: Ran = {}
        for precision in runnable(trunk):
            results = _ran_alone(subject, trunk, precision, planes, phases)
            yield _output_check(subject, trunk, precision, frame, results)
            if precision is Precision.FP32:
                exact = results
                yield _torch_hop(subject, trunk, frame, results, PYTORCH)
            else:
                yield _precision_hop(subject, trunk, precision, frame, exact, results)


def _ran_alone(
    subject: Subject,
    trunk: TrunkRecord,
    precision: Precision,
    planes: NDArray[np.float32] | BackendError,
    phases: list[Phase],
) -> Ran:
    """In a session that is closed again."""
    with ExitStack() as opening:
        return ran(opened_run(opening, subject.bundle, trunk, precision), planes, phases)


def _located(check: Check, where: Callable[_P, str], *arguments: _P.args, **options: _P.kwargs) -> Check:
    """With the place where a failure begins; the search runs graphs too, and what breaks there hides no failure."""
    if not check.failed:
        return check
    place = attempted(partial(where, *arguments, **options))
    return check.located(f"{check.graph}: not located ({place})" if isinstance(place, BackendError) else place)


def _torch_hop(subject: Subject, trunk: TrunkRecord, frame: Frame, results: Ran, source: str) -> Check:
    """PyTorch's logits of one phase against a trunk in fp32."""
    assert frame.case is not None
    assert frame.logits is not None
    tolerance, window = subject.tolerance(Precision.FP32), subject.bundle.manifest.grid(trunk).window
    graph, where = trunk.graphs[Precision.FP32], f"{frame.name}, phase {frame.case.phase}"
    bound = tolerance.of_logits(largest_logit(frame.logits))
    question = Question.of_hop(source, graph, where, bound, graph=graph)
    if isinstance(results, BackendError):
        return question.ended(results)
    logits = logits_of(results)
    if len(logits) < len(results):
        return question.not_run(_OTHER_ORDER)
    actual, expected = _at_common_pixels(logits, window, frame)
    check = question.measured(logit_error(actual, expected))
    return _located(check, locating.in_trunk, subject, trunk, frame, actual)


def _at_common_pixels(
    logits: dict[Phase, NDArray[np.float32]], window: tuple[int, int], frame: Frame
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A trunk's logits and PyTorch's where both are known: all of PyTorch's, or those of some of the phases."""
    assert frame.case is not None
    assert frame.logits is not None
    (row, column), (h, w) = frame.case.phase, frame.case.window
    shared = phases_at(window, frame.case.phase, frame.case.window)
    if set(shared) <= set(logits):
        whole = assembled_at(logits, window, frame.case.phase, frame.case.window)
        return np.asarray(whole, np.float32), frame.logits
    known = [phase for phase in shared if phase in logits]
    expected = [
        frame.logits[:, (r - row) // h :: window[0] // h, (c - column) // w :: window[1] // w] for r, c in known
    ]
    # Side by side: the classes stay the first axis.
    return np.concatenate([logits[phase] for phase in known], 1), np.concatenate(expected, 1)


def _output_check(subject: Subject, trunk: TrunkRecord, precision: Precision, frame: Frame, results: Ran) -> Check:
    """What a trunk gives against its own logits: argmax, softmax, and the merges after them."""
    graph, kind = trunk.graphs[precision], subject.bundle.manifest.outputs
    labels = kind is OutputKind.LABELS
    question = Question(
        kind=Kind.LAYOUT,
        name=f"logits -> {kind.value} of {graph}",
        subject=f"{frame.name}, {_count_of(results)}",
        quantity=OUTPUT_QUANTITIES[kind],
        tolerance=0 if labels else EXACT,
        graph=graph,
        precision=precision,
    )
    if isinstance(results, BackendError):
        return question.ended(results)
    worst, at = 0.0, ""
    for phase, result in results.items():
        if result.misshapen:
            return question.broke(result.misshapen).located(f"{graph}: its output has another shape")
        if result.logits is None:
            return question.not_run(_OTHER_ORDER)
        error = output_error(result.output, result.logits, kind)
        if not error <= worst:
            worst, expected = error, expected_output(result.logits, kind)
            at = f"phase {phase} of {graph}" + locating.in_output(subject, trunk, result.output, expected)
    check = question.measured(worst)
    return check.located(at) if check.failed else check


def _precision_hop(
    subject: Subject, trunk: TrunkRecord, precision: Precision, frame: Frame, exact: Ran, results: Ran
) -> Check:
    """A trunk in another precision against the one in fp32: what the cast alone costs."""
    question = _precision_question(subject, trunk, precision, f"{frame.name}, {_count_of(results)}")
    if isinstance(results, BackendError):
        return question.ended(results)
    if isinstance(exact, BackendError):
        return question.ended(exact)
    worst = scale = 0.0
    for phase, result in results.items():
        expected = exact[phase].logits
        if result.logits is None or expected is None:
            return question.not_run(_OTHER_ORDER)
        scale = max(scale, largest_logit(expected))
        error = float(np.abs(result.logits - expected).max())
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    check = question.held_to(subject.tolerance(precision).of_logits(scale)).measured(worst / (scale or 1))
    return _located(check, locating.in_precision, subject, trunk, precision, frame, next(iter(results)))


def _precision_question(subject: Subject, trunk: TrunkRecord, precision: Precision, where: str) -> Question:
    source, target, tolerance = trunk.graphs[Precision.FP32], trunk.graphs[precision], subject.tolerance(precision)
    return Question.of_hop(source, target, where, tolerance.logits, graph=target, precision=precision)


def computed_anew(subject: Subject, frame: Frame) -> Frame:
    """The frame with logits of one phase that PyTorch computes now."""
    manifest, traced = subject.bundle.manifest, subject.traced
    assert traced is not None
    like = frame.case or manifest.reference[0]
    grid = PhaseGrid(manifest.input.size, manifest.input.padded_size, like.window, (0, 0, 0, 0))
    normalization = Normalization(manifest.input.mean, manifest.input.std)
    logits = phase_logits(traced, frame.image, grid, like.phase, normalization)
    return Frame(frame.name, frame.image, case=like, logits=logits)


def _count_of(results: Ran) -> str:
    if isinstance(results, BackendError):
        return "no phase"
    return f"{len(results)} phase{'s' if len(results) > 1 else ''}"
