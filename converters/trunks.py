"""The trunks of a bundle: which there are, and their graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import fx, nn

from converters.analysis.levels import levels_from_graph
from converters.flops import operations
from converters.graphs.from_torch import onnx_from_torch
from converters.graphs.modules import matching_modules
from converters.graphs.stages import Trunk
from converters.rewriting.loops import LoopedNetwork, cut_levels, looped_from_graph, most_levels
from converters.rewriting.lowerings import LoweredNetwork, lowered
from converters.rewriting.proof import prove_phases
from engines.bundle.manifest import InputRecord, Lowering, OutputKind, Precision, TrunkRecord
from engines.errors import NetworkError
from engines.schedules.phases import PhaseGrid, Size

if TYPE_CHECKING:
    import onnx_ir as ir

    from converters.graphs.weights import SharedWeights


@dataclass(frozen=True)
class TrunkChoice:
    """Which trunks to write. ``None`` leaves the choice to :func:`planned_trunks`."""

    levels: tuple[int, ...] | None = None
    lowerings: tuple[Lowering, ...] | None = None


@dataclass(frozen=True)
class PlannedTrunk:
    """A network in the form of one trunk, proven equal to the network handed over."""

    looped: LoopedNetwork
    form: LoweredNetwork
    lowering: Lowering


@dataclass(frozen=True)
class PrecisionPlan:
    """In what the trunks compute."""

    precisions: tuple[Precision, ...]
    """Beside fp32, which every check needs."""
    kept: Mapping[Precision, frozenset[str]]
    """Modules that stay in fp32, by the precision of the trunk."""
    ranges: Mapping[str, float]
    """For int8, by module: the magnitude at its input that becomes 127."""

    def converted(self, model: ir.Model, precision: Precision) -> ir.Model:
        """A trunk in one of the precisions, from its fp32 graph, which stays as it is."""
        from converters.graphs.precision import cast_network
        from converters.graphs.quantization.graphs import quantize_network

        if precision is Precision.FP32:
            return model
        model = model.clone()
        if precision is Precision.INT8:
            quantize_network(model, self.ranges, self.kept.get(precision, ()))
        else:
            cast_network(model, precision, self.kept.get(precision, ()))
        return model


def kept_modules(graph: fx.GraphModule, patterns: Mapping[Precision, Sequence[str]]) -> dict[Precision, frozenset[str]]:
    """The layers of a traced network that patterns name. Raises :class:`NetworkError` for one that names none."""
    modules = {str(node.target) for node in graph.graph.nodes if node.op == "call_module"}
    return {precision: matching_modules(wanted, modules) for precision, wanted in patterns.items()}


def planned_trunks(
    network: nn.Module, graph: fx.GraphModule, choice: TrunkChoice, size_multiple: Size
) -> Iterator[PlannedTrunk]:
    """Rewrite a traced network for every chosen trunk and prove each rewrite, the default trunk first.

    The default walks the levels that windows of the input can stand for, which repeats no work. Without a choice
    there are trunks for all levels that the network allows, split and merged by reshapes, and the other lowerings
    of the default, where they understand the network.

    Raises :class:`NetworkError` for a level or a lowering that was asked for and is not possible.
    """
    cut, most = cut_levels(graph), most_levels(graph)
    if choice.levels is None and choice.lowerings is None:
        yield from _default_trunks(network, graph, cut, most, size_multiple)
        return
    levels = {cut} if choice.levels is None else set(choice.levels)
    for level in sorted(levels, key=lambda level: (level != cut, level)):
        looped = looped_from_graph(graph, level)
        for lowering in dict.fromkeys(choice.lowerings or (Lowering.RESHAPE,)):
            yield _proven(network, looped, lowering, size_multiple)


def _default_trunks(
    network: nn.Module, graph: fx.GraphModule, cut: int, most: int, size_multiple: Size
) -> Iterator[PlannedTrunk]:
    default = looped_from_graph(graph, cut)
    yield _proven(network, default, Lowering.RESHAPE, size_multiple)
    if len(levels_from_graph(graph).windows) > cut:
        # Without a split inside, the lowerings are one.
        for lowering in (Lowering.STRIDED, Lowering.DILATED):
            try:
                yield _proven(network, default, lowering, size_multiple)
            except NetworkError:
                # Not asked for: the reference form is there.
                continue
    for level in range(most + 1):
        if level != cut:
            yield _proven(network, looped_from_graph(graph, level), Lowering.RESHAPE, size_multiple)


def _proven(network: nn.Module, looped: LoopedNetwork, lowering: Lowering, size_multiple: Size) -> PlannedTrunk:
    form = lowered(looped, lowering)
    prove_phases(network, looped, form, size_multiple)
    return PlannedTrunk(looped, form, lowering)


def write_trunks(
    trunks: Sequence[PlannedTrunk],
    frame: InputRecord,
    outputs: OutputKind,
    plan: PrecisionPlan,
    *,
    opset: int,
    weights: SharedWeights,
    stage: Path,
    on_step: Callable[[str], None],
) -> list[TrunkRecord]:
    """Export every trunk in every precision into ``stage``; the first one is ``trunk.onnx``."""
    from converters.graphs.layers import layers_of, precision_of
    from converters.graphs.lifetimes import largest_tensor, live_bytes
    from converters.graphs.packing import packed_bytes

    records = []
    for index, trunk in enumerate(trunks):
        looped = trunk.looped
        stem = "trunk" if index == 0 else f"trunk-l{looped.levels}-{trunk.lowering.value}"
        on_step(f"exporting {stem}.onnx, the work on one sub-batch ({looped.levels} levels, {trunk.lowering.value})")
        grid = PhaseGrid(frame.size, frame.padded_size, looped.cut_window, frame.border, looped.inner_windows)
        # A batch of two: one would be taken for a constant.
        inputs = {"windows": torch.zeros(()).expand(2, 3, *grid.window_size)}
        if looped.inner_windows:
            inputs["offsets"] = torch.zeros((len(looped.inner_windows), 2), dtype=torch.int64)
        module = Trunk(trunk.form.graph, trunk.form.merges, outputs).eval()
        model = onnx_from_torch(module, inputs, output_name=outputs.value, opset=opset, batch="phases")
        graphs, live, convolutions = {}, {}, {}
        packed: dict[Precision, int] = {}
        for precision in dict.fromkeys((Precision.FP32, *plan.precisions)):
            name = f"{stem}.onnx" if precision is Precision.FP32 else f"{stem}.{precision.value}.onnx"
            converted = plan.converted(model, precision)
            weights.save_graph(converted, stage / name)
            graphs[precision], live[precision] = name, live_bytes(converted)
            if precision in (Precision.FP32, Precision.INT8):
                # int8 runs there as it is written.
                packed[precision] = packed_bytes(converted, optimized=precision is Precision.FP32)
            kinds = [precision_of(layer) for layer in layers_of(converted) if layer.op_type == "Conv"]
            convolutions[precision] = dict(Counter(kind for kind in kinds if kind is not None))
        records.append(
            TrunkRecord(
                levels=looped.levels,
                lowering=trunk.lowering,
                cut_window=looped.cut_window,
                inner_windows=list(looped.inner_windows),
                graphs=graphs,
                convolutions=convolutions,
                operations=operations(trunk.form.graph, [inputs["windows"][:1], *list(inputs.values())[1:]]),
                live_bytes=live,
                packed_bytes=packed,
                largest_tensor=largest_tensor(model),
            )
        )
    return records
