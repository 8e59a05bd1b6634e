"""The chain PyTorch fp32 -> ONNX fp32 -> ONNX in the target precision, each hop with an error of its own.

The first frame is walked whole, by every phase of the default trunk; the others at the phase that PyTorch computed
and at a quarter of the phases, spread evenly. Trunks of other levels and lowerings are run at the phase that PyTorch
computed for the first frame, or at up to 16 of the phases that it consists of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from converters.reference import outer_splits, phase_logits
from converters.rewriting.tracing import graph_from_network
from converters.stages import Normalization
from converters.verification import locating
from converters.verification.probes import planes_of
from converters.verification.runs import PhaseResult, TrunkRun, lack_of_memory, whole_logits
from converters.verification.subject import Agreement, Frame, Layer, Overlay, Subject, runnable
from engines.backends.onnxruntime import NO_BF16
from engines.manifest import OutputKind, Precision, TrunkRecord
from engines.metrics import by_phase, near_boundaries
from engines.parity import Check, Kind, assembled_at, phases_at, relative_error, ties
from engines.phases import Phase, PhaseGrid

Results = dict[Phase, PhaseResult]

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
        yield Check.not_run(name, "all frames", subject.tolerance(precision).logits, NO_BF16)
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
    needed: list[Phase] = []
    if frame.case is not None:
        needed = phases_at(grid.window, frame.case.phase, frame.case.window)
    elif subject.network is not None:
        # PyTorch is run anew at a phase like the first case's: one that both have is enough.
        case = subject.bundle.manifest.reference[0]
        needed = phases_at(grid.window, case.phase, case.window)[:1]
    return list(dict.fromkeys((*walked[: -(-len(walked) // _SHARE)], *needed)))


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
    logits = {phase: result.logits for phase, result in results.items() if result.logits is not None}
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
    merged = merged_logits(manifest.grid(trunk), results)
    check = Check.at_most(
        merged_name, frame.name, relative_error(merged, whole), tolerance.of_logits(scale), "relative error of logits"
    )
    yield check.located(locating.in_merge(subject, trunk, frame, merged, whole)) if check.failed else check


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
    levels = next(
        levels
        for levels in range(len(manifest.windows) + 1)
        if np.prod([h for h, _ in manifest.windows[:levels]]) == like.window[0]
        and np.prod([w for _, w in manifest.windows[:levels]]) == like.window[1]
    )
    splits = outer_splits(network, graph_from_network(network), levels)
    grid = PhaseGrid(manifest.input.size, manifest.input.padded_size, like.window, (0, 0, 0, 0))
    normalization = Normalization(manifest.input.mean, manifest.input.std)
    logits = phase_logits(network, splits, frame.image, grid, like.phase, normalization)
    return Frame(frame.name, frame.image, like, logits)


def expected_output(logits: NDArray[np.float32], kind: OutputKind) -> NDArray[np.generic]:
    """Labels, logits or probabilities of ``(classes, i, j)``."""
    if kind is OutputKind.LABELS:
        return np.asarray(logits.argmax(0), np.uint8)
    if kind is OutputKind.LOGITS:
        return logits
    raised = np.exp(logits - logits.max(0))
    return np.asarray(raised / raised.sum(0), np.float32)


def merged_logits(grid: PhaseGrid, results: Results) -> NDArray[np.float32]:
    """``(classes, H, W)`` of all phases, cropped to the frame."""
    first = next(iter(results.values())).logits
    assert first is not None
    merged = np.empty((len(first), *grid.padded_size), np.float32)
    for phase, result in results.items():
        assert result.logits is not None
        grid.place(result.logits[None], [phase], merged)
    return np.asarray(grid.crop(merged), np.float32)


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
                _count_labels(subject, grid, frame, found[Precision.FP32], found[precision], precision)


def _count_labels(
    subject: Subject, grid: PhaseGrid, frame: Frame, exact: Results, results: Results, precision: Precision
) -> None:
    tolerance, classes = subject.tolerance(precision), len(subject.bundle.manifest.classes)
    step = _step(grid, list(results))
    expected_logits = _sparse(grid, exact, step)
    expected = expected_logits.argmax(0).astype(np.uint8)
    actual_logits = _sparse(grid, results, step)
    actual = _labels(grid, results, step, actual_logits)
    tied = ties(actual, expected_logits, tolerance.of_ties)
    height, width = grid.frame_size
    pixels = frame.image[:: step[0], :: step[1]]
    agreement = subject.findings.agreements.setdefault(precision.value, Agreement(classes))
    if any(frame is judged for judged in subject.judged):
        agreement.add(actual, expected, tied, near_boundaries(expected))
        if frame.truth is not None and step == (1, 1):
            agreement.judge(actual, expected, frame.truth)
    if agreement.by_phase is None and step == (1, 1):
        scale = float(np.abs(expected_logits).max()) or 1.0
        agreement.by_phase = by_phase(actual != expected, grid.window)
        agreement.error_by_phase = by_phase(np.abs(actual_logits - expected_logits).max(0) / scale, grid.window)
    assert actual.shape == (-(-height // step[0]), -(-width // step[1]))
    subject.findings.overlays.append(Overlay(frame.name, precision.value, pixels, expected, actual, tied))


def _step(grid: PhaseGrid, phases: list[Phase]) -> tuple[int, int]:
    """The coarsest regular lattice of pixels that the phases fill: ``(rows, columns)``."""
    h, w = grid.window
    held = set(phases)
    for down, right in sorted(((a, b) for a in range(1, h + 1) for b in range(1, w + 1)), key=lambda s: s[0] * s[1]):
        lattice = {(row, column) for row in range(0, h, down) for column in range(0, w, right)}
        if h % down == 0 and w % right == 0 and lattice <= held:
            return down, right
    return h, w


def _sparse(grid: PhaseGrid, results: Results, step: tuple[int, int]) -> NDArray[np.float32]:
    """Logits at every so many pixels of the frame."""
    first = next(iter(results.values())).logits
    assert first is not None
    full = np.zeros((len(first), grid.padded_size[0] // step[0], grid.padded_size[1] // step[1]), np.float32)
    h, w = grid.window[0] // step[0], grid.window[1] // step[1]
    for (row, column), result in results.items():
        if row % step[0] == 0 and column % step[1] == 0:
            full[:, row // step[0] :: h, column // step[1] :: w] = result.logits
    return full[:, : -(-grid.frame_size[0] // step[0]), : -(-grid.frame_size[1] // step[1])]


def _labels(grid: PhaseGrid, results: Results, step: tuple[int, int], logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The labels that the trunk itself gave, where it gives labels."""
    first = next(iter(results.values())).output
    if first.dtype != np.uint8:
        return np.asarray(logits.argmax(0), np.uint8)
    full = np.zeros((grid.padded_size[0] // step[0], grid.padded_size[1] // step[1]), np.uint8)
    h, w = grid.window[0] // step[0], grid.window[1] // step[1]
    for (row, column), result in results.items():
        if row % step[0] == 0 and column % step[1] == 0:
            full[row // step[0] :: h, column // step[1] :: w] = result.output
    return full[: logits.shape[1], : logits.shape[2]]


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
