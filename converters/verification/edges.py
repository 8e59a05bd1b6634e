"""Frames at the edges of what a camera gives: PyTorch against the default trunk, in every precision that runs here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import numpy as np
from numpy.typing import NDArray

from converters.verification import locating
from converters.verification.chain import computed_anew, stored_checks
from converters.verification.outputs import OUTPUT_QUANTITIES, output_error
from converters.verification.probes import planes_of
from converters.verification.runs import Results, attempted, logits_of, opened_run, ran
from converters.verification.subject import Frame, Subject, runnable
from engines.bundle.edges import EdgeFrame, edge_frame
from engines.bundle.manifest import OutputKind, ReferenceRecord
from engines.bundle.records import Check, Kind
from engines.errors import BackendError
from engines.parity.checks import Question
from engines.parity.comparison import assembled_at, largest_logit, phases_at
from engines.schedules.schedule import Precision


def edge_cases(subject: Subject) -> list[Frame]:
    """The generated frames with PyTorch's logits of a phase of each."""
    edges, size = subject.bundle.manifest.edges, subject.bundle.manifest.input.size
    if edges is None:
        return []
    frames = []
    for kind, phase, logits in zip(edges.frames, edges.phases, subject.bundle.edge_logits(), strict=True):
        case = ReferenceRecord(frame=edges.logits, window=edges.window, phase=phase, logits=edges.logits)
        frames.append(Frame(f"{kind.value} frame", edge_frame(kind, size), case=case, logits=logits))
    return frames


def edge_checks(subject: Subject) -> Iterator[Check]:
    """The default trunk on the generated frames: its logits, and what it makes of them."""
    manifest, frames = subject.bundle.manifest, edge_cases(subject)
    trunk, grid = manifest.trunk(), manifest.grid(manifest.trunk())
    known = manifest.edges.frames if manifest.edges else []
    if missing := [kind.value for kind in EdgeFrame if kind not in known]:
        question = Question.of_hop("PyTorch", trunk.graphs[Precision.FP32], ", ".join(missing), 0, graph=None)
        yield question.not_run("the network's own logits are not finite on these frames")
    if not frames:
        return
    if subject.network is not None:
        for frame in frames:
            yield from stored_checks(subject, frame, computed_anew(subject, frame))
    held = [frame.logits for frame in (*frames, *subject.frames) if frame.logits is not None]
    scale = max(largest_logit(logits) for logits in held) or 1.0
    planes = [attempted(partial(planes_of, subject.bundle, frame.image)) for frame in frames]
    for precision in runnable(trunk):
        with ExitStack() as opening:
            run = opened_run(opening, subject.bundle, trunk, precision)
            results = []
            for frame, prepared in zip(frames, planes, strict=True):
                assert frame.case is not None
                phases = phases_at(grid.window, frame.case.phase, frame.case.window)
                results.append(ran(run, prepared, phases))
        yield from _checks(subject, precision, frames, results, scale)


def _checks(
    subject: Subject, precision: Precision, frames: list[Frame], results: list[Results | BackendError], scale: float
) -> Iterator[Check]:
    trunk, kind = subject.bundle.manifest.trunk(), subject.bundle.manifest.outputs
    graph, where = trunk.graphs[precision], f"{len(frames)} generated frames: {', '.join(f.name[:-6] for f in frames)}"
    tolerance = subject.tolerance(precision).of_logits(scale)
    hop = Question.of_hop("PyTorch", graph, where, tolerance, graph=graph, precision=precision)
    layout = Question(
        kind=Kind.LAYOUT,
        name=f"logits -> {kind.value} of {graph}",
        subject=where,
        quantity=OUTPUT_QUANTITIES[kind],
        tolerance=0.0 if kind is OutputKind.LABELS else 1e-6,
        graph=graph,
        precision=precision,
    )
    errors, wrong = [], []
    for frame, found in zip(frames, results, strict=True):
        if isinstance(found, BackendError):
            yield from (question.ended(found) for question in (hop, layout))
            return
        logits = logits_of(found)
        if len(logits) < len(found):
            misshapen = next((result.misshapen for result in found.values() if result.misshapen), "")
            reason = "the graph's split batches have another order"
            yield from (
                question.broke(misshapen) if misshapen else question.not_run(reason) for question in (hop, layout)
            )
            return
        assert frame.case is not None
        assert frame.logits is not None
        window = subject.bundle.manifest.grid(trunk).window
        actual = np.asarray(assembled_at(logits, window, frame.case.phase, frame.case.window), np.float32)
        finite = bool(np.isfinite(actual).all())
        difference = float(np.abs(actual - frame.logits).max()) / scale if finite else float("inf")
        errors.append((difference, frame, actual))
        outputs = ((output_error(held.output, logits[phase], kind), frame) for phase, held in found.items())
        wrong.append(max(outputs, key=lambda pair: pair[0]))
    worst = max(errors, key=lambda held: held[0])
    check = hop.measured(worst[0], f"the worst is the {worst[1].name}")
    if check.failed:
        names = ", ".join(frame.name for error, frame, _ in errors if not error <= tolerance)
        check = check.located(f"{graph}: on {names}; {_layer(subject, precision, worst[1], worst[2])}")
    if precision is not Precision.INT8:
        # That was calibrated on other frames, and promises nothing of the logits of these.
        yield check
    largest = max(wrong, key=lambda held: held[0])
    check = layout.measured(largest[0])
    yield check.located(f"{graph}: after the logits, on the {largest[1].name}") if check.failed else check


def _layer(subject: Subject, precision: Precision, frame: Frame, actual: NDArray[np.float32]) -> str:
    trunk = subject.bundle.manifest.trunk()
    if precision is Precision.FP32:
        place = attempted(partial(locating.in_trunk, subject, trunk, frame, actual))
    else:
        assert frame.case is not None
        (row, column), (h, w) = frame.case.phase, subject.bundle.manifest.grid(trunk).window
        place = attempted(partial(locating.in_precision, subject, trunk, precision, frame, (row % h, column % w)))
    return f"not located ({place})" if isinstance(place, BackendError) else place
