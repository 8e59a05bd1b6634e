"""The chain PyTorch fp32 -> ONNX fp32 -> ONNX in the target precision, each hop with an error of its own.

The first frame is walked whole, by every phase of the default trunk; the others at a quarter of the phases, spread
evenly from the one that PyTorch computed. Trunks of other levels and lowerings are run at the phase that PyTorch
computed for the first frame, or at up to 16 of the phases that it consists of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from converters.analysis.network import traced_network
from converters.graphs.stages import Normalization
from converters.reference import phase_logits
from converters.verification import labels, locating
from converters.verification.probes import planes_of
from converters.verification.runs import Results, TrunkRun, lack_of_memory, logits_of, merged, whole_logits
from converters.verification.subject import Frame, Layer, Subject, runnable
from engines.backends.onnxruntime.cpu import ONNXRUNTIME_CPU
from engines.bundle.manifest import OutputKind, TrunkRecord
from engines.parity.checks import Check, Kind, assembled_at, phases_at, relative_error, softmax
from engines.schedules.phases import Phase, PhaseGrid
from engines.schedules.schedule import Precision

_SHARE = 4
"""Of the phases of every frame but the first, one in so many."""

_MOST_PHASES = 16
"""Of a trunk that is not the default one."""

_EXACT = 1e-6


def chain_checks(subject: Subject) -> Iterator[Check]:
    """All hops that ONNX Runtime can make."""
    bundle = subject.bundle
    trunk = bundle.manifest.trunk()
    for precision in set(trunk.graphs) - set(runnable(trunk)):
        name = f"{trunk.graphs[Precision.FP32]} -> {trunk.graphs[precision]}"
        reason = ONNXRUNTIME_CPU.refusal(precision) or ""
        yield Check.not_run(name, "all frames", subject.tolerance(precision).logits, reason)
    subject.findings.window = bundle.manifest.grid(trunk).window
    first: Results = {}
    with ExitStack() as opening:
        runs = {
            precision: opening.enter_context(TrunkRun(bundle, trunk, precision, measured=True))
            for precision in runnable(trunk)
        }
        for index, frame in enumerate(subject.frames):
            planes = planes_of(bundle, frame.image)
            phases = _phases(subject, runs[Precision.FP32].grid, frame, whole=index == 0 or frame.truth is not None)
            found = {precision: {phase: run.at(planes, phase) for phase in phases} for precision, run in runs.items()}
            _keep_feed(subject, runs, planes, phases[0], found)
            yield from _frame_checks(subject, trunk, frame, found)
            if index == 0:
                first = found[Precision.FP32]
            _count(subject, runs[Precision.FP32].grid, frame, found, index == 0)
    # Only now, with the sessions of the trunk closed: the whole graph takes the most memory of all.
    yield from _whole_checks(subject, trunk, subject.frames[0], first)
    yield from _other_trunk_checks(subject, trunk)
    locating.measure_layers(subject)


def _phases(subject: Subject, grid: PhaseGrid, frame: Frame, *, whole: bool) -> list[Phase]:
    walked = [phases[0] for phases in grid.sub_batches(1)]
    if whole:
        return walked
    needed = [(0, 0)]
    if frame.case is not None:
        needed = phases_at(grid.window, frame.case.phase, frame.case.window)
    elif subject.network is not None:
        # PyTorch is run anew at a phase like the first case's: one that both have is enough.
        case = subject.bundle.manifest.reference[0]
        needed = phases_at(grid.window, case.phase, case.window)[:1]
    # The walk may begin anywhere, so it begins with what is needed.
    (row, column), (h, w) = needed[0], grid.window
    spread = [((row + r) % h, (column + c) % w) for r, c in walked[: -(-len(walked) // _SHARE)]]
    return list(dict.fromkeys((*spread, *needed)))


def _frame_checks(
    subject: Subject, trunk: TrunkRecord, frame: Frame, found: dict[Precision, Results]
) -> Iterator[Check]:
    """The hops of the default trunk on one frame."""
    if frame.logits is not None:
        yield _torch_hop(subject, trunk, frame, found[Precision.FP32], "PyTorch")
    if subject.network is not None:
        yield _torch_hop(subject, trunk, _computed(subject, frame), found[Precision.FP32], "PyTorch, run anew")
    for precision, results in found.items():
        yield _output_hop(subject, trunk, precision, frame, results)
        if precision is not Precision.FP32:
            yield _precision_hop(subject, trunk, precision, frame, found[Precision.FP32], results)


def _torch_hop(subject: Subject, trunk: TrunkRecord, frame: Frame, results: Results, source: str) -> Check:
    """PyTorch's logits of one phase against a trunk in fp32."""
    assert frame.case is not None
    assert frame.logits is not None
    name, where = f"{source} -> {trunk.graphs[Precision.FP32]}", f"{frame.name}, phase {frame.case.phase}"
    tolerance, window = subject.tolerance(Precision.FP32), subject.bundle.manifest.grid(trunk).window
    logits = logits_of(results)
    if len(logits) < len(results):
        return Check.not_run(name, where, tolerance.logits, "the graph's split batches have another order")
    actual, expected = _at_common_pixels(logits, window, frame)
    scale = float(np.abs(frame.logits).max())
    check = Check.at_most(
        name, where, relative_error(actual, expected), tolerance.of_logits(scale), "relative error of logits"
    )
    return check.located(locating.in_trunk(subject, trunk, frame, actual)) if check.failed else check


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
    return np.stack([logits[phase] for phase in known]), np.stack(expected)


def _output_hop(subject: Subject, trunk: TrunkRecord, precision: Precision, frame: Frame, results: Results) -> Check:
    """What a trunk gives against its own logits: argmax, softmax, and the merges after them."""
    graph = trunk.graphs[precision]
    kind = subject.bundle.manifest.outputs
    name, where = f"logits -> {kind.value} of {graph}", f"{frame.name}, {_count_of(results)}"
    worst, at = 0.0, ""
    for phase, result in results.items():
        if result.logits is None:
            return Check.not_run(name, where, 0, "the graph's split batches have another order", Kind.LAYOUT)
        expected = expected_output(result.logits, kind)
        if kind is OutputKind.LABELS:
            error = float((result.output != expected).mean())
        else:
            error = relative_error(np.asarray(result.output, np.float32), np.asarray(expected, np.float32))
        if not error <= worst:
            worst = error
            at = f"phase {phase} of {graph}" + locating.in_output(subject, trunk, result.output, expected)
    tolerance, detail = (
        (0, "share of labels that are not the largest logit's")
        if kind is OutputKind.LABELS
        else (
            _EXACT,
            "relative error",
        )
    )
    check = Check.at_most(name, where, worst, tolerance, detail, Kind.LAYOUT)
    return check.located(at) if check.failed else check


def _precision_hop(
    subject: Subject, trunk: TrunkRecord, precision: Precision, frame: Frame, exact: Results, results: Results
) -> Check:
    """A trunk in another precision against the one in fp32: what the cast alone costs."""
    name = f"{trunk.graphs[Precision.FP32]} -> {trunk.graphs[precision]}"
    where, tolerance = f"{frame.name}, {_count_of(results)}", subject.tolerance(precision)
    worst = scale = 0.0
    for phase, result in results.items():
        expected = exact[phase].logits
        if result.logits is None or expected is None:
            return Check.not_run(name, where, tolerance.logits, "the graph's split batches have another order")
        scale = max(scale, float(np.abs(expected).max()))
        error = float(np.abs(result.logits - expected).max())
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    check = Check.at_most(name, where, worst / (scale or 1), tolerance.of_logits(scale), "relative error of logits")
    if not check.failed:
        return check
    return check.located(locating.in_precision(subject, trunk, precision, frame, next(iter(results))))


def _whole_checks(subject: Subject, trunk: TrunkRecord, frame: Frame, results: Results) -> Iterator[Check]:
    """``model.onnx`` on the first frame: against PyTorch, and against the trunk's merged phases."""
    manifest, tolerance = subject.bundle.manifest, subject.tolerance(Precision.FP32)
    lack = lack_of_memory(subject.bundle)
    merged_name = f"{manifest.model} -> merged phases of {trunk.graphs[Precision.FP32]}"
    if lack:
        yield Check.not_run(f"PyTorch -> {manifest.model}", frame.name, tolerance.logits, lack)
        yield Check.not_run(merged_name, frame.name, tolerance.logits, lack)
        return
    whole = whole_logits(subject.bundle, frame.image)
    scale = float(np.abs(whole).max())
    if frame.case is not None and frame.logits is not None:
        (row, column), (h, w) = frame.case.phase, frame.case.window
        actual = whole[:, row::h, column::w]
        # The padded pixels of the phase are cropped in the whole graph, so they are cropped here too.
        expected = frame.logits[:, : actual.shape[1], : actual.shape[2]]
        check = Check.at_most(
            f"PyTorch -> {manifest.model}",
            f"{frame.name}, phase {frame.case.phase}",
            relative_error(actual, expected),
            tolerance.of_logits(scale),
            "relative error of logits",
        )
        yield check.located(locating.in_model(subject, trunk, frame, whole)) if check.failed else check
    if any(result.logits is None for result in results.values()):
        yield Check.not_run(merged_name, frame.name, tolerance.logits, "the split batches have another order")
        return
    phases = merged(manifest.grid(trunk), logits_of(results))
    check = Check.at_most(
        merged_name, frame.name, relative_error(phases, whole), tolerance.of_logits(scale), "relative error of logits"
    )
    yield check.located(locating.in_merge(subject, trunk, frame, phases, whole)) if check.failed else check


def _other_trunk_checks(subject: Subject, default: TrunkRecord) -> Iterator[Check]:
    frame = subject.frames[0]
    if frame.case is None:
        return
    planes = planes_of(subject.bundle, frame.image)
    for trunk in subject.bundle.manifest.trunks:
        if trunk == default:
            continue
        exact: Results = {}
        for precision in runnable(trunk):
            with TrunkRun(subject.bundle, trunk, precision) as run:
                shared = set(phases_at(run.grid.window, frame.case.phase, frame.case.window))
                # The walk is dispersed, so its first ones lie far from each other.
                walk = [phases[0] for phases in run.grid.sub_batches(1) if phases[0] in shared]
                phases = walk[:_MOST_PHASES]
                results = {phase: run.at(planes, phase) for phase in phases}
            yield _output_hop(subject, trunk, precision, frame, results)
            if precision is Precision.FP32:
                exact = results
                yield _torch_hop(subject, trunk, frame, results, "PyTorch")
            else:
                yield _precision_hop(subject, trunk, precision, frame, exact, results)


def _computed(subject: Subject, frame: Frame) -> Frame:
    """The frame with logits of one phase that PyTorch computes now."""
    manifest, network = subject.bundle.manifest, subject.network
    assert network is not None
    like = frame.case or (manifest.reference[0] if manifest.reference else None)
    assert like is not None, "an export always writes a reference case"
    grid = PhaseGrid(manifest.input.size, manifest.input.padded_size, like.window, (0, 0, 0, 0))
    normalization = Normalization(manifest.input.mean, manifest.input.std)
    logits = phase_logits(traced_network(network), frame.image, grid, like.phase, normalization)
    return Frame(frame.name, frame.image, like, logits)


def expected_output(logits: NDArray[np.float32], kind: OutputKind) -> NDArray[np.generic]:
    """Labels, logits or probabilities of ``(classes, i, j)``."""
    if kind is OutputKind.LABELS:
        return np.asarray(logits.argmax(0), np.uint8)
    if kind is OutputKind.LOGITS:
        return logits
    return softmax(logits)


def _count(subject: Subject, grid: PhaseGrid, frame: Frame, found: dict[Precision, Results], first: bool) -> None:
    """Add a frame to the figures of magnitudes and of labels."""
    for precision, results in found.items():
        for result in results.values():
            for name, magnitude in result.magnitudes.items():
                layer = subject.findings.layers.setdefault(name, Layer())
                if precision is Precision.FP32:
                    layer.magnitude = _larger(layer.magnitude, magnitude)
                else:
                    held = layer.largest.get(precision.value, 0.0)
                    layer.largest[precision.value] = _larger(held, magnitude)
    if any(result.logits is None for results in found.values() for result in results.values()):
        return
    if any(frame is judged for judged in subject.judged) or first:
        for precision in found:
            if precision is not Precision.FP32:
                labels.count(subject, grid, frame, found[Precision.FP32], found[precision], precision)


def _keep_feed(
    subject: Subject,
    runs: dict[Precision, TrunkRun],
    planes: NDArray[np.float32],
    phase: Phase,
    found: dict[Precision, Results],
) -> None:
    subject.findings.feeds.append(runs[Precision.FP32].feed(planes, [phase]))
    output = subject.bundle.manifest.outputs.value
    for precision, results in found.items():
        kept = subject.findings.outputs.setdefault(precision.value, [])
        kept.append({output: results[phase].output[None]})


def _larger(a: float, b: float) -> float:
    """The larger of two; what is no number is larger than any."""
    return b if not b <= a else a


def _count_of(results: Results) -> str:
    return f"{len(results)} phase{'s' if len(results) > 1 else ''}"
