"""Which modules a lower precision hurts, and the fewest of them to keep in fp32.

Works from a bundle alone: its fp32 trunk is cut at the logits and converted anew for every question, by the same code
that converts it in an export. One phase of each frame is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.graphs.identity import Part, module_of, network_nodes, part_of
from converters.graphs.modules import has_weights, modules_named
from converters.graphs.reading import graph_from_file
from converters.graphs.rounding import write_rounding
from converters.trunks import TrunkPrecisions
from converters.verification.probes import model_until, planes_of
from engines import Bundle
from engines.backends.onnxruntime.cpu import ONNXRUNTIME_CPU
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.errors import BundleError, InputError
from engines.parity.comparison import label_agreement, logit_error
from engines.parity.tolerances import LARGEST_FP16, TOLERANCES
from engines.schedules.phases import dispersed
from engines.schedules.schedule import Precision

OnProgress = Callable[[int, int], None]


@dataclass(frozen=True)
class Figures:
    """What a graph's logits are off by, at the worst frame."""

    error: float
    """Largest difference of a logit relative to the largest logit; infinite where one is not finite."""
    agreement: float
    """Share of pixels with the same label, ties aside as far as the tolerance forgives them."""
    passed: bool
    """Whether both are within the tolerance of the precision."""


@dataclass(frozen=True)
class RankedModule:
    """A module and what it does to the logits when it alone computes in the lower precision."""

    module: str
    figures: Figures
    largest: float
    """Largest magnitude among its results, and among the sums that take them, in fp32."""


@dataclass(frozen=True)
class Search:
    """The outcome of :func:`searched_precision`."""

    kept_before: tuple[str, ...]
    """Modules that the bundle keeps in fp32 already."""
    before: Figures
    """Of the trunk as it is in the bundle."""
    overflow: str | None
    """The first node whose results are not finite in the lower precision, in the order of computing."""
    ranked: tuple[RankedModule, ...]
    """Worst first; those whose results fp16 cannot hold before all others."""
    proposal: tuple[str, ...] | None
    """Modules to keep besides; ``None`` where no choice of them is within tolerance."""
    after: Figures | None
    """Of the graph with the proposal, which was made and run."""
    runs: int
    """Graphs that were made and run."""


def searched_precision(
    bundle: Bundle,
    precision: Precision,
    frames: Sequence[NDArray[np.uint8]],
    on_progress: OnProgress = lambda done, total: None,
) -> Search:
    """Rank the modules of the default trunk by the error they introduce, and look for the fewest to keep in fp32.

    Every module with weights computes in ``precision`` alone once, with everything else in fp32, and the error is
    measured at the logits. The proposal takes modules from the top of that ranking, as few as suffice, and leaves
    out each one that turns out not to be needed. Every candidate is a graph that was run.

    Args:
        bundle: opened.
        precision: fp16 or int8.
        frames: ``(H, W, 3)`` uint8 of the bundle's size.
        on_progress: called with ``(modules done, modules)`` during the ranking.

    Raises:
        BackendError: for bf16, which ONNX Runtime cannot run on a CPU.
        BundleError: for int8 in a bundle that was not calibrated.
        InputError: for fp32, or logits that are not finite in fp32.
    """
    if precision is Precision.FP32:
        raise InputError("fp32 is what the other precisions are compared with")
    ONNXRUNTIME_CPU.check_precision(precision)
    if precision is Precision.INT8 and bundle.manifest.calibration is None:
        raise BundleError(
            'the bundle was exported without calibration; export it with precisions=("int8",) and calibration_frames='
        )
    probe = _Probe(bundle, precision, frames)
    before = probe.figures(probe.kept_before)
    ranked = _ranked(probe, on_progress)
    overflow = None if np.isfinite(before.error) else probe.first_not_finite()
    proposal = () if before.passed else _proposal(probe, [entry.module for entry in ranked])
    after = None if proposal is None else probe.figures({*probe.kept_before, *proposal})
    return Search(tuple(sorted(probe.kept_before)), before, overflow, ranked, proposal, after, probe.runs)


class _Probe:
    """The network of a trunk, from windows to logits, in any mixture of fp32 and one other precision."""

    def __init__(self, bundle: Bundle, precision: Precision, frames: Sequence[NDArray[np.uint8]]) -> None:
        manifest = bundle.manifest
        trunk = manifest.trunk()
        self.precision = precision
        self._ranges = manifest.calibration.ranges if manifest.calibration else {}
        self._model = _until_logits(graph_from_file(bundle.file(bundle.trunk_graph(trunk, Precision.FP32))))
        ir.external_data.load_to_model(self._model)
        network = network_nodes(self._model)
        self._modules = {module_of(node) for node in network if module_of(node)}
        self.weighted = [
            module
            for module in dict.fromkeys(module_of(node) for node in network if has_weights(node))
            if module and (precision is not Precision.INT8 or module in self._ranges)
        ]
        patterns = manifest.keep_fp32.get(precision, [])
        self.kept_before = {name for pattern in patterns for name in modules_named(pattern, self._modules)}
        grid = manifest.grid(trunk)
        phases = dispersed(grid.window)[:1]
        self._feeds = [grid.feed(planes_of(bundle, frame), phases) for frame in frames]
        self.runs = 0
        self._known: dict[frozenset[str], Figures] = {}
        self._expected = [logits for (logits,) in self._outputs(self._model, Precision.FP32)]
        if not all(np.isfinite(logits).all() for logits in self._expected):
            raise InputError("the network's logits are not finite in fp32; check the checkpoint and the frames")

    def figures(self, kept: Iterable[str]) -> Figures:
        """Of the graph that keeps these modules in fp32."""
        key = frozenset(kept)
        if key not in self._known:
            self._known[key] = self._measured(key)
        return self._known[key]

    def alone(self, module: str) -> Figures:
        """Of the graph in which this module alone computes in the lower precision."""
        return self.figures(self._modules - {module})

    def largest(self) -> dict[str, float]:
        """By node: its largest magnitude in fp32, over all frames."""
        model = self._model.clone()
        names = _tapped(model, "ReduceMax")
        found = [[float(value) for value in values] for values in self._outputs(model, Precision.FP32)]
        return {name: max(values) for name, values in zip(names, zip(*found, strict=True), strict=True)}

    def first_not_finite(self) -> str | None:
        """The first node of the graph as the bundle has it whose results are not finite."""
        model = self._converted(frozenset(self.kept_before))
        names = _tapped(model, "ReduceSum")
        found = self._outputs(model, self.precision)
        spoilt = (name for index, name in enumerate(names) if any(not np.isfinite(values[index]) for values in found))
        return next(spoilt, None)

    def nodes(self) -> list[ir.Node]:
        """Of the network, in order."""
        return network_nodes(self._model)

    def _measured(self, kept: frozenset[str]) -> Figures:
        tolerance = TOLERANCES[self.precision]
        error, agreement = 0.0, 1.0
        outputs = self._outputs(self._converted(kept), self.precision)
        for (actual,), expected in zip(outputs, self._expected, strict=True):
            error = max(error, logit_error(actual, expected, axis=1))
            labels = np.nan_to_num(actual).argmax(1)
            for one, logits in zip(labels, expected, strict=True):
                agreement = min(agreement, label_agreement(one, logits, tolerance.of_ties).judged(tolerance))
        return Figures(error, agreement, error <= tolerance.logits and agreement >= tolerance.label_agreement)

    def _converted(self, kept: frozenset[str]) -> ir.Model:
        plan = TrunkPrecisions((self.precision,), {self.precision: kept}, self._ranges)
        return plan.converted(self._model, self.precision)[0]

    def _outputs(self, model: ir.Model, precision: Precision) -> list[list[NDArray[np.float32]]]:
        """For each frame the outputs of a graph, in their order."""
        self.runs += 1
        names = [str(output.name) for output in model.graph.outputs]
        rounded = model.clone()
        write_rounding(rounded)
        with OnnxRuntimeRunner(ir.to_proto(rounded).SerializeToString(), precision=precision) as runner:
            results = [runner.infer(feed) for feed in self._feeds]
        return [[np.asarray(result[name], np.float32) for name in names] for result in results]


def _ranked(probe: _Probe, on_progress: OnProgress) -> tuple[RankedModule, ...]:
    by_node, largest = probe.largest(), dict.fromkeys(probe.weighted, 0.0)
    for node in probe.nodes():
        for module in _sources(node):
            if module in largest:
                largest[module] = max(largest[module], by_node.get(str(node.name), 0.0))
    entries = []
    candidates = [module for module in probe.weighted if module not in probe.kept_before]
    for index, module in enumerate(candidates):
        entries.append(RankedModule(module, probe.alone(module), largest[module]))
        on_progress(index + 1, len(candidates))

    def badness(entry: RankedModule) -> tuple[bool, float, float]:
        # A sum that overflows is nobody's error alone.
        too_large = probe.precision is Precision.FP16 and entry.largest > LARGEST_FP16
        return too_large, entry.figures.error, 1 - entry.figures.agreement

    return tuple(sorted(entries, key=badness, reverse=True))


def _proposal(probe: _Probe, ranked: list[str]) -> tuple[str, ...] | None:
    """The fewest from the top of the ranking that suffice, without those that are not needed."""

    def passes(modules: Iterable[str]) -> bool:
        return probe.figures({*probe.kept_before, *modules}).passed

    if not passes(ranked):
        return None
    low, high = 0, len(ranked)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(ranked[:middle]) else (middle, high)
    chosen = ranked[:high]
    for module in reversed(ranked[:high]):
        fewer = [other for other in chosen if other != module]
        if passes(fewer):
            chosen = fewer
    return tuple(chosen)


def _until_logits(model: ir.Model) -> ir.Model:
    """The network of a trunk: what is made of the logits goes, and they are the output."""
    tail = [node for node in model.graph if part_of(node) is Part.PREDICTIONS]
    if not tail:
        return model
    ends = {value for node in tail for value in node.inputs if value is not None and not value.is_initializer()}
    (logits,) = (value for value in ends if value.producer() not in tail)
    cut = model_until(model, str(logits.name))
    # A cast to float takes the name over, and the value gets that of its node.
    cut.graph.outputs[0].name = "logits"
    return cut


def _tapped(model: ir.Model, reduction: str) -> list[str]:
    """Make a figure of every floating result the outputs of a graph: names of the nodes, in order."""
    floats = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
    tapped = [node for node in network_nodes(model) if node.outputs[0].dtype in floats]
    tape = ir.tape.Tape(model.graph)
    model.graph.outputs.clear()
    for index, node in enumerate(tapped):
        wide = tape.op("Cast", [node.outputs[0]], {"to": ir.DataType.FLOAT.value})
        output = ir.val(f"tap:{index}", ir.DataType.FLOAT, [])
        model.graph.outputs.append(tape.op(reduction, [tape.op("Abs", [wide])], {"keepdims": 0}, output=output))
    return [str(node.name) for node in tapped]


def _sources(node: ir.Node) -> set[str]:
    """The module of a node; for a sum or the like those of what it reads."""
    module = module_of(node)
    if module:
        return {module}
    producers = (value.producer() for value in node.inputs if value is not None)
    return {module_of(producer) for producer in producers if producer is not None} - {""}
