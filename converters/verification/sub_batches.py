"""Every phase, offset and sub-batch of every trunk, on a frame that is small enough for all of it.

Real classes of faults are right for a batch of one only, from a batch of four on, or at one offset out of many. Each
phase is computed twice: as many at a time as can go together, and in sub-batches of changing sizes with windows of
another frame beside. Both are compared with each other, with ``model.onnx``, and with what the graph itself makes of
its logits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from converters.reference import noise_frame
from converters.verification import locating
from converters.verification.forms import FrameForm
from converters.verification.groups import Group, mixed_groups, sizes_of, whole_groups
from converters.verification.outputs import OUTPUT_QUANTITIES, output_error
from converters.verification.probes import probed
from converters.verification.runs import PhaseResult, TrunkRun, attempted, entries_of
from converters.verification.subject import Subject, runnable
from engines.bundle.edges import EdgeFrame, edge_frame
from engines.bundle.manifest import OutputKind, TrunkRecord
from engines.bundle.records import Check, Kind, Quantity
from engines.errors import BackendError
from engines.parity.checks import Question
from engines.parity.comparison import largest_logit
from engines.schedules.phases import Phase, PhaseGrid, dispersed
from engines.schedules.schedule import Precision

_SEEDS = (17, 18)

_REAL = 3
"""Phases of a real frame that are computed together."""


@dataclass(frozen=True, eq=False)
class SmallFrames:
    """Frames of a small form, with what prepares and judges them."""

    form: FrameForm
    images: list[NDArray[np.uint8]]
    """Two of noise, then those at the edges."""
    planes: list[NDArray[np.float32]]
    logits: list[NDArray[np.float32]]
    """Of ``model.onnx``, ``(classes, H, W)``, one frame at a time."""
    pair: NDArray[np.float32] | None
    """Of the second and the first frame in one batch; ``None`` for a graph that takes one frame at a time."""

    @classmethod
    def of(cls, form: FrameForm) -> SmallFrames:
        """Raises :class:`BackendError`."""
        images = [noise_frame(form.size, seed) for seed in _SEEDS]
        images += [edge_frame(kind, form.size) for kind in EdgeFrame]
        planes = form.planes(images)

        def logits_of(*frames: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.asarray(runner.infer({"frames": np.stack(frames)})["logits"], np.float32)

        with form.model().runner() as runner:
            alone = [logits_of(image)[0] for image in images]
            pair = None if runner.inputs[0].shape[0] is not None else logits_of(images[1], images[0])
        return cls(form, images, planes, alone, pair)

    @cached_property
    def scale(self) -> float:
        """What errors are relative to: the largest logit of the frames of noise."""
        return max(largest_logit(logits) for logits in self.logits[: len(_SEEDS)]) or 1.0

    @property
    def words(self) -> str:
        """For people."""
        return f"generated frames of {self.form.size[0]}x{self.form.size[1]}"


@dataclass
class _Seen:
    """What a trunk gave, by frame and phase."""

    together: dict[tuple[int, Phase], PhaseResult] = field(default_factory=dict)
    """With all phases that can go together."""
    mixed: dict[tuple[int, Phase], list[tuple[Group, int, PhaseResult]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    groups: list[tuple[Group, list[PhaseResult]]] = field(default_factory=list)


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
            check.located(f"{graph}: results depend on the sub-batch (wrong in sub-batches of {_listed(wrong)})")
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
                error = float("inf") if result.logits is None else _error(result.logits, alone[index], scale)
                errors[len(order)] = max(errors[len(order)], error)
    return errors


def batch_check(subject: Subject, frames: SmallFrames) -> Check:
    """``model.onnx`` with two frames at a time, against each alone."""
    manifest, tolerance = subject.bundle.manifest, subject.tolerance(Precision.FP32).sub_batch
    question = Question(
        kind=Kind.SUB_BATCH,
        name=f"batches of {manifest.model}",
        subject=f"{frames.words}, a batch of 2",
        quantity=Quantity.LOGIT_ERROR,
        tolerance=tolerance,
        graph=manifest.model,
        precision=Precision.FP32,
    )
    pair, wanted = frames.pair, (2, *frames.logits[0].shape)
    if pair is None:
        return question.not_run(f"{manifest.model} takes one frame at a time")
    if pair.shape != wanted:
        return question.misshapen(pair.shape, wanted)
    errors = [_error(pair[index], frames.logits[1 - index], frames.scale) for index in (0, 1)]
    check = question.measured(max(errors))
    worst = int(np.argmax(errors))
    return check.located(f"{manifest.model}: entry {worst} of a batch of 2") if check.failed else check


def phase_checks(subject: Subject, frames: SmallFrames) -> Iterator[Check]:
    """Every trunk in every precision that runs here."""
    for trunk in subject.bundle.manifest.trunks:
        for precision in runnable(trunk):
            yield from _Proof(subject, frames, trunk, precision).checks()


@dataclass(frozen=True, eq=False)
class _Proof:
    """One graph."""

    subject: Subject
    frames: SmallFrames
    trunk: TrunkRecord
    precision: Precision

    @property
    def graph(self) -> str:
        return self.trunk.graphs[self.precision]

    def checks(self) -> Iterator[Check]:
        sizes = sizes_of(self.subject.bundle, self.trunk)
        count = len(self.frames.form.grid(self.trunk).phases)
        phases = f"all {count} phases" if count > 1 else "the whole frame"
        words = f"{self.frames.words}, {phases}"
        sub_batches = replace(self._question(Kind.SUB_BATCH), subject=f"{words}, sub-batches of {_listed(sizes)}")
        hop = Question.of_hop(
            self.subject.bundle.manifest.model,
            self.graph,
            words if self.precision is Precision.INT8 else f"{words}, and {len(EdgeFrame)} frames at the edges",
            self.subject.tolerance(self.precision).logits,
            graph=self.graph,
            precision=self.precision,
        )
        kind = self.subject.bundle.manifest.outputs
        layout = replace(self._question(Kind.LAYOUT), subject=words)
        seen = attempted(partial(self._seen, sizes))
        if isinstance(seen, BackendError):
            yield from (question.ended(seen) for question in (layout, hop, sub_batches))
            return
        broken = next((result for _, held in seen.groups for result in held if result.logits is None), None)
        if broken is not None:
            for question in (layout, hop, sub_batches):
                yield (
                    question.broke(broken.misshapen)
                    if broken.misshapen
                    else question.not_run("the graph's split batches have another order")
                )
            return
        dependent = self._sub_batch_check(sub_batches, seen)
        yield self._output_check(layout, kind, seen)
        yield self._hop_check(hop, seen, alone=dependent.failed)
        yield dependent

    def _question(self, kind: Kind) -> Question:
        outputs = self.subject.bundle.manifest.outputs
        if kind is Kind.LAYOUT:
            name, quantity = f"logits -> {outputs.value} of {self.graph}", OUTPUT_QUANTITIES[outputs]
            tolerance = 0.0 if outputs is OutputKind.LABELS else 1e-6
        else:
            name, quantity = f"sub-batches of {self.graph}", Quantity.LOGIT_ERROR
            tolerance = self.subject.tolerance(self.precision).sub_batch
        return Question(
            kind=kind,
            name=name,
            subject="",
            quantity=quantity,
            tolerance=tolerance,
            graph=self.graph,
            precision=self.precision,
        )

    def _seen(self, sizes: Sequence[int]) -> _Seen:
        seen, frames = _Seen(), self.frames
        with TrunkRun(self.subject.bundle, self.trunk, self.precision, form=frames.form) as run:
            for group in whole_groups(run.grid):
                results = run.together([(frames.planes[frame], phase) for frame, phase in group.entries])
                seen.groups.append((group, results))
                seen.together |= dict(zip(group.entries, results, strict=True))
            for group in (*mixed_groups(run.grid, sizes), *self._at_the_edges()):
                results = run.together([(frames.planes[frame], phase) for frame, phase in group.entries])
                seen.groups.append((group, results))
                for index, (entry, result) in enumerate(zip(group.entries, results, strict=True)):
                    seen.mixed[entry].append((group, index, result))
        return seen

    def _at_the_edges(self) -> Iterator[Group]:
        """One phase of each frame at the edges, another one each time."""
        if self.precision is Precision.INT8:
            # Calibrated on other frames, it promises nothing of the logits of these.
            return
        phases = dispersed(self.frames.form.grid(self.trunk).window)
        for index in range(len(_SEEDS), len(self.frames.images)):
            yield Group(((index, phases[index % len(phases)]),))

    def _error(self, entry: tuple[int, Phase], result: PhaseResult) -> float:
        """Of the logits against those of ``model.onnx``."""
        frame, (row, column) = entry
        h, w = self.frames.form.grid(self.trunk).window
        expected = self.frames.logits[frame][:, row::h, column::w]
        assert result.logits is not None
        # The padded pixels of a phase are cropped in the whole graph.
        return _error(result.logits[:, : expected.shape[1], : expected.shape[2]], expected, self.frames.scale)

    def _output_check(self, question: Question, kind: OutputKind, seen: _Seen) -> Check:
        worst, at = 0.0, ""
        indices: set[int] = set()
        for group, results in seen.groups:
            for index, (entry, result) in enumerate(zip(group.entries, results, strict=True)):
                assert result.logits is not None
                error = output_error(result.output, result.logits, kind)
                if not error <= question.tolerance:
                    indices.add(index)
                if not error <= worst:
                    worst, at = error, f"phase {entry[1]}, entry {index} of a sub-batch of {group.size}"
        check = question.measured(worst)
        if not check.failed:
            return check
        first = ", never in the first entry of a sub-batch" if 0 not in indices else ""
        return check.located(f"{self.graph}: after the logits, worst at {at}{first}")

    def _hop_check(self, question: Question, seen: _Seen, *, alone: bool) -> Check:
        """The smallest error of a phase; only ``alone`` in its sub-batch where results depend on that, which is told
        by the other check."""
        errors: dict[tuple[int, Phase], float] = {}
        for group, results in seen.groups:
            for entry, result in zip(group.entries, results, strict=True):
                if group.size == 1 or not alone:
                    errors[entry] = min(errors.get(entry, float("inf")), self._error(entry, result))
        check = question.measured(max(errors.values()))
        if not check.failed:
            return check
        wrong = sorted(entry for entry, error in errors.items() if not error <= question.tolerance)
        return check.located(f"{self.graph}: {self._place(wrong, errors)}")

    def _place(self, wrong: list[tuple[int, Phase]], errors: dict[tuple[int, Phase], float]) -> str:
        grid = self.frames.form.grid(self.trunk)
        noise = [entry for entry in wrong if entry[0] < len(_SEEDS)]
        if not noise:
            kinds = [list(EdgeFrame)[frame - len(_SEEDS)].value for frame, _ in wrong]
            return f"on {', '.join(dict.fromkeys(kinds))} frames alone"
        _, phase = max(noise, key=lambda entry: errors[entry])
        words = f"phase {phase}"
        if grid.inner_windows:
            offsets = {tuple(map(tuple, grid.inner_offsets([phase]).tolist())) for _, phase in noise}
            every = len(grid.phases) // grid.largest_sub_batch
            shown = "; ".join(str(list(held)) for held in sorted(offsets)[:3])
            words += f", at {len(offsets)} of {every} inner offsets: {shown}"
        else:
            words += f", one of {len({phase for _, phase in noise})} of {len(grid.phases)} that are wrong"
        layer = attempted(partial(locating.at_phase, self.subject, self.trunk, self.precision, phase))
        return words if isinstance(layer, BackendError) else f"{words}; {layer}"

    def _sub_batch_check(self, question: Question, seen: _Seen) -> Check:
        worst, where = 0.0, None
        for entry, held in seen.mixed.items():
            if entry not in seen.together:
                continue
            right = seen.together[entry]
            assert right.logits is not None
            for group, index, result in held:
                assert result.logits is not None
                if np.array_equal(result.logits, right.logits, equal_nan=True):
                    # What is not finite in every sub-batch does not depend on it.
                    continue
                error = _error(result.logits, right.logits, self.frames.scale)
                if not error <= worst:
                    worst, where = error, (group, index)
        check = question.measured(worst)
        if not check.failed or where is None:
            return check
        wrong = self._wrong_sizes(seen)
        sizes = f"wrong in sub-batches of {_listed(wrong)}" if wrong else f"a sub-batch of {where[0].size} differs"
        groups = [group for group, _ in seen.groups if group.size in wrong] or [where[0]]
        layer = attempted(partial(self._layer, groups[0]))
        return check.located(
            f"{self.graph}: results depend on the sub-batch ({sizes})"
            + ("" if isinstance(layer, BackendError) else f"; {layer}")
        )

    def _wrong_sizes(self, seen: _Seen) -> list[int]:
        """Sizes whose worst error against ``model.onnx`` is as large as that of the worst of all, about."""
        errors: dict[int, float] = defaultdict(float)
        for group, results in seen.groups:
            for entry, result in zip(group.entries, results, strict=True):
                if entry[0] < len(_SEEDS):
                    errors[group.size] = max(errors[group.size], self._error(entry, result))
        largest = max(errors.values())
        return (
            sorted(size for size, error in errors.items() if not error < largest / 2)
            if min(errors.values()) < largest / 2
            else []
        )

    def _layer(self, group: Group) -> str:
        """The first layer that gives an entry of a sub-batch other values than alone."""
        form, planes, bound = self.frames.form, self.frames.planes, self.subject.tolerance(self.precision).sub_batch
        graph, grid = form.trunk(self.trunk, self.precision), form.grid(self.trunk)

        def feed(entries: Sequence[tuple[int, Phase]]) -> dict[str, NDArray[np.generic]]:
            held = grid.feed(planes[0], [phase for _, phase in entries])
            held["windows"] = np.concatenate([grid.cut(planes[frame], [phase]) for frame, phase in entries])
            return held

        outputs = graph.layer_outputs
        with graph.runner(outputs.values()) as runner:
            together = runner.infer(feed(group.entries))
            alone = [runner.infer(feed([entry])) for entry in group.entries]
        for layer, name in outputs.items():
            held = entries_of(probed(together, name), group.size, self.trunk)
            for index, one in enumerate(alone):
                right = entries_of(probed(one, name), 1, self.trunk)
                if held is None or right is None or held[index].shape != right[0].shape:
                    continue
                if np.array_equal(held[index], right[0], equal_nan=True):
                    continue
                scale = float(np.abs(right).max()) or 1.0
                if not _error(held[index], right[0], scale) <= max(10 * bound, 1e-5):
                    return f"it begins in {layer}"
        return "it begins after the last layer"


def _error(actual: NDArray[np.float32], expected: NDArray[np.float32], scale: float) -> float:
    if not (np.isfinite(actual).all() and np.isfinite(expected).all()):
        return float("inf")
    return float(np.abs(actual - expected).max()) / scale


def _listed(sizes: Sequence[int]) -> str:
    *most, last = map(str, sizes)
    return f"{', '.join(most)} and {last}" if most else last
