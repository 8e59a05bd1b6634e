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
from functools import partial

import numpy as np
from numpy.typing import NDArray

from converters.verification import locating
from converters.verification.generated import OF_NOISE, SmallFrames
from converters.verification.groups import Group, listed, mixed_groups, sizes_of, whole_groups
from converters.verification.outputs import OUTPUT_QUANTITIES, output_error
from converters.verification.probes import probed
from converters.verification.runs import PhaseResult, TrunkRun, attempted, entries_of
from converters.verification.subject import Subject, runnable
from engines.bundle.edges import EdgeFrame
from engines.bundle.manifest import OutputKind, TrunkRecord
from engines.bundle.records import Check, Kind, Quantity
from engines.errors import BackendError
from engines.parity.checks import Question
from engines.parity.comparison import largest_error
from engines.schedules.phases import Phase, dispersed
from engines.schedules.schedule import Precision


@dataclass
class _Seen:
    """What a trunk gave, by frame and phase."""

    together: dict[tuple[int, Phase], PhaseResult] = field(default_factory=dict)
    """With all phases that can go together."""
    mixed: dict[tuple[int, Phase], list[tuple[Group, int, PhaseResult]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    groups: list[tuple[Group, list[PhaseResult]]] = field(default_factory=list)


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
    errors = [largest_error(pair[index], frames.logits[1 - index]) / frames.scale for index in (0, 1)]
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
        sub_batches = replace(self._question(Kind.SUB_BATCH), subject=f"{words}, sub-batches of {listed(sizes)}")
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
        for index in range(OF_NOISE, len(self.frames.images)):
            yield Group(((index, phases[index % len(phases)]),))

    def _error(self, entry: tuple[int, Phase], result: PhaseResult) -> float:
        """Of the logits against those of ``model.onnx``."""
        frame, (row, column) = entry
        h, w = self.frames.form.grid(self.trunk).window
        expected = self.frames.logits[frame][:, row::h, column::w]
        assert result.logits is not None
        # The padded pixels of a phase are cropped in the whole graph.
        return largest_error(result.logits[:, : expected.shape[1], : expected.shape[2]], expected) / self.frames.scale

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
        noise = [entry for entry in wrong if entry[0] < OF_NOISE]
        if not noise:
            kinds = [list(EdgeFrame)[frame - OF_NOISE].value for frame, _ in wrong]
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
                error = largest_error(result.logits, right.logits) / self.frames.scale
                if not error <= worst:
                    worst, where = error, (group, index)
        check = question.measured(worst)
        if not check.failed or where is None:
            return check
        wrong = self._wrong_sizes(seen)
        sizes = f"wrong in sub-batches of {listed(wrong)}" if wrong else f"a sub-batch of {where[0].size} differs"
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
                if entry[0] < OF_NOISE:
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
                if not largest_error(held[index], right[0]) / scale <= max(10 * bound, 1e-5):
                    return f"it begins in {layer}"
        return "it begins after the last layer"
