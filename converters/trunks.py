"""The trunks of a bundle: which there are, and their graphs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from converters.flops import operations
from converters.graphs.arena import arena_bytes
from converters.graphs.from_torch import onnx_from_torch
from converters.graphs.layers import layers_of, precision_of
from converters.graphs.lifetimes import largest_tensor, live_bytes
from converters.graphs.packing import packed_bytes
from converters.graphs.precision import cast_network
from converters.graphs.quantization.graphs import quantize_network
from converters.graphs.stages import Trunk
from converters.graphs.weights import SharedWeights
from converters.graphs.written import TrunkProof, WrittenGraphs
from converters.reference import reference_phase
from converters.rewriting.loops import LoopedNetwork, looped_from_network
from converters.rewriting.lowerings import lowered
from converters.rewriting.lowerings.base import LoweredNetwork
from converters.rewriting.proof import NoiseCase, prove_phases
from engines.bundle.manifest import InputRecord, OutputKind, TrunkRecord
from engines.errors import NetworkError
from engines.schedules.schedule import Lowering, Precision


@dataclass(frozen=True)
class TrunkPrecisions:
    """In what the trunks compute."""

    precisions: tuple[Precision, ...]
    """Beside fp32, which every check needs."""
    kept: Mapping[Precision, frozenset[str]]
    """Modules that stay in fp32, by the precision of the trunk."""
    ranges: Mapping[str, float]
    """For int8, by module: the magnitude at its input that becomes 127."""

    def converted(self, model: ir.Model, precision: Precision) -> tuple[ir.Model, list[str]]:
        """A trunk in one of the precisions, from its fp32 graph, which stays as it is, and what is to be said of it."""
        if precision is Precision.FP32:
            return model, []
        model = model.clone()
        kept = self.kept.get(precision, ())
        if precision is Precision.INT8:
            quantize_network(model, self.ranges, kept)
            return model, []
        return model, cast_network(model, precision, kept)


def proven_trunks(
    case: NoiseCase,
    levels: Sequence[int] | None = None,
    lowerings: Sequence[Lowering] | None = None,
) -> Iterator[LoweredNetwork]:
    """Rewrite the network of a case for every trunk and prove each rewrite on it, the default trunk first.

    The default walks the levels that windows of the input can stand for, which repeats no work. Where neither levels
    nor lowerings are asked for, there are trunks for all levels that the network allows, split and merged by reshapes,
    and the other lowerings of the default, where they understand the network.

    Raises :class:`NetworkError` for a level or a lowering that was asked for and is not possible.
    """
    network = case.network
    cut = network.cut_levels
    if levels is None and lowerings is None:
        yield from _default_trunks(case)
        return
    wanted = {cut} if levels is None else set(levels)
    for level in sorted(wanted, key=lambda level: (level != cut, level)):
        looped = looped_from_network(network, level)
        for lowering in dict.fromkeys(lowerings or (Lowering.RESHAPE,)):
            yield _proven(looped, lowering, case)


def _default_trunks(case: NoiseCase) -> Iterator[LoweredNetwork]:
    network, cut = case.network, case.network.cut_levels
    default = looped_from_network(network, cut)
    yield _proven(default, Lowering.RESHAPE, case)
    if len(network.windows) > cut:
        # Without a split inside, the lowerings are one.
        for lowering in (Lowering.STRIDED, Lowering.DILATED):
            try:
                yield _proven(default, lowering, case)
            except NetworkError:
                # Not asked for: the reference form is there.
                continue
    for level in range(network.most_levels + 1):
        if level != cut:
            yield _proven(looped_from_network(network, level), Lowering.RESHAPE, case)


def _proven(looped: LoopedNetwork, lowering: Lowering, case: NoiseCase) -> LoweredNetwork:
    form = lowered(looped, lowering)
    prove_phases(form, case)
    return form


@dataclass(frozen=True)
class TrunkWriter:
    """Writes the graphs of trunks into a bundle that is being made."""

    frame: InputRecord
    outputs: OutputKind
    opset: int
    precisions: TrunkPrecisions
    weights: SharedWeights
    stage: Path
    planes: NDArray[np.float32]
    """The prepared planes of a frame, which every graph is proven on."""
    on_step: Callable[[str], None]

    def write(self, form: LoweredNetwork, stem: str) -> TrunkRecord:
        """Export a trunk in every precision: ``<stem>.onnx``, ``<stem>.fp16.onnx`` and so on."""
        inputs = self._inputs(form.looped)
        module = Trunk(form.graph, form.merges, self.outputs).eval()
        model = onnx_from_torch(module, inputs, output_name=self.outputs.value, opset=self.opset, batch="phases")
        proofs = WrittenGraphs(self.stage, self.on_step)
        proof = TrunkProof(module, self._feed(form.looped), self.precisions.ranges)
        graphs: dict[Precision, str] = {}
        convolutions: dict[Precision, dict[Precision, int]] = {}
        live: dict[Precision, int] = {}
        packed: dict[Precision, int] = {}
        arena: dict[Precision, int] = {}
        for precision in dict.fromkeys((Precision.FP32, *self.precisions.precisions)):
            graphs[precision] = f"{stem}.onnx" if precision is Precision.FP32 else f"{stem}.{precision.value}.onnx"
            converted, remarks = self.precisions.converted(model, precision)
            for remark in remarks:
                self.on_step(f"{graphs[precision]}: {remark}")
            self.weights.save_graph(converted, self.stage / graphs[precision])
            proofs.prove_trunk(graphs[precision], precision, proof)
            convolutions[precision], live[precision] = _convolutions(converted), live_bytes(converted)
            arena[precision] = arena_bytes(converted)
            if precision in (Precision.FP32, Precision.INT8):
                # int8 runs there as it is written.
                packed[precision] = packed_bytes(converted, optimized=precision is Precision.FP32)
        return TrunkRecord(
            levels=form.looped.levels,
            lowering=form.lowering,
            cut_window=form.looped.cut_window,
            inner_windows=list(form.looped.inner_windows),
            graphs=graphs,
            convolutions=convolutions,
            operations=operations(form.graph, [inputs["windows"][:1], *list(inputs.values())[1:]]),
            live_bytes=live,
            packed_bytes=packed,
            arena_bytes=arena,
            largest_tensor=largest_tensor(model),
        )

    def _inputs(self, looped: LoopedNetwork) -> dict[str, Tensor]:
        """Examples of what the trunk takes. A batch of two: one would be taken for a constant."""
        grid = looped.grid(self.frame.size, self.frame.padded_size)
        inputs = {"windows": torch.zeros(()).expand(2, 3, *grid.crop_size)}
        if looped.inner_windows:
            inputs["offsets"] = torch.zeros((len(looped.inner_windows), 2), dtype=torch.int64)
        return inputs

    def _feed(self, looped: LoopedNetwork) -> dict[str, NDArray[np.generic]]:
        """What the trunk takes for one phase of the frame that it is proven on."""
        grid = looped.grid(self.frame.size, self.frame.padded_size)
        return grid.feed(self.planes, [reference_phase(grid.window, case=0)])


def write_trunks(trunks: Sequence[LoweredNetwork], writer: TrunkWriter) -> list[TrunkRecord]:
    """Export every trunk; the first one is ``trunk.onnx``."""
    records = []
    for index, form in enumerate(trunks):
        levels, lowering = form.looped.levels, form.lowering.value
        stem = f"trunk-l{levels}-{lowering}" if index else "trunk"
        writer.on_step(f"exporting and proving {stem}.onnx, the work on one sub-batch ({levels} levels, {lowering})")
        records.append(writer.write(form, stem))
    return records


def _convolutions(model: ir.Model) -> dict[Precision, int]:
    """How many convolutions of a graph compute in which precision."""
    kinds = (precision_of(layer) for layer in layers_of(model) if layer.op_type == "Conv")
    return dict(Counter(kind for kind in kinds if kind is not None))
