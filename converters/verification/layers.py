"""Locating a fault: the first layer whose output differs from a graph, or a network, that is right.

Graphs hold a layer's output as split batches of some levels, at some phase. :class:`Placed` puts it back on the
grid of the frame, so that forms of one network with different schedules and lowerings can be compared.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters.analysis.levels import levels_within, total_window
from converters.analysis.network import TracedNetwork
from converters.graphs.stages import Normalization
from converters.reference import level_offsets, phase_logits
from converters.verification.probes import ProbedGraph, Sample, planes_of, probed
from converters.verification.subject import Frame, Subject
from engines.bundle.manifest import TrunkRecord
from engines.schedules.phases import Phase, PhaseGrid, Size
from engines.schedules.schedule import Lowering, Precision

_DIFFERS = 1e-4
"""Relative to the layer's largest value; fp32 in another order of summation stays below a tenth of it."""


@dataclass(frozen=True)
class Placed:
    """A layer's output at the pixels ``[row::h, column::w]`` of its grid."""

    values: NDArray[np.float32]
    """``(C, H/h, W/w)``."""
    window: Size
    phase: Phase

    def error(self, expected: Placed) -> float | None:
        """Relative to the largest expected value, at the pixels that both have; ``None`` where there are none."""
        h, w = math.lcm(self.window[0], expected.window[0]), math.lcm(self.window[1], expected.window[1])
        coarse = self.phase if self.window == (h, w) else expected.phase
        actual, wanted = self.at(coarse, (h, w)), expected.at(coarse, (h, w))
        if actual is None or wanted is None or actual.shape != wanted.shape or not wanted.size:
            return None
        if not np.isfinite(actual).all():
            return math.inf
        scale = float(np.abs(wanted).max())
        return float(np.abs(actual - wanted).max()) / scale if scale else float(np.abs(actual).max())

    def at(self, phase: Phase, window: Size) -> NDArray[np.float32] | None:
        """The values at the pixels of a coarser window and phase; ``None`` where they are not held."""
        (h, w), (row, column) = self.window, self.phase
        if (
            window[0] % h
            or window[1] % w
            or (phase[0] - row) % h
            or (phase[1] - column) % w
            or phase[0] < row
            or phase[1] < column
        ):
            return None
        return self.values[:, (phase[0] - row) // h :: window[0] // h, (phase[1] - column) // w :: window[1] // w]


def placed(
    values: NDArray[np.float32], size: Size, windows: list[Size], phase: Phase, *, outermost: bool = False
) -> Placed | None:
    """Put split batches ``(B, C, i, j)`` back on their grid; ``None`` for a tensor that is none.

    Args:
        values: a layer's output for one frame, or for one phase of it.
        size: of the padded frame.
        windows: of the network's levels.
        phase: that the graph was run at; the levels not in the batch are pinned to it.
        outermost: whether the last split is the outermost part of the batch axis, as strided splits make it.
    """
    if values.ndim != 4 or size[0] % values.shape[2] or size[1] % values.shape[3]:
        return None
    coverage = size[0] // values.shape[2], size[1] // values.shape[3]
    levels = _levels_held(tuple(windows), coverage, len(values))
    if levels is None:
        return None
    inner, level = levels
    for h, w in reversed(windows[inner:level]):
        batch, channels, i, j = values.shape
        if outermost:
            cut = values.reshape(h, w, batch // (h * w), channels, i, j).transpose(2, 3, 4, 0, 5, 1)
        else:
            cut = values.reshape(batch // (h * w), h, w, channels, i, j).transpose(0, 3, 4, 1, 5, 2)
        values = cut.reshape(batch // (h * w), channels, i * h, j * w)
    h, w = total_window(windows[:inner])
    return Placed(values[0], (h, w), (phase[0] % h, phase[1] % w))


@functools.lru_cache(maxsize=256)
def _levels_held(windows: tuple[Size, ...], coverage: Size, batch: int) -> tuple[int, int] | None:
    """The first and the last level whose windows make up the batch of a tensor, each of whose pixels stands for
    ``coverage`` of the frame; ``None`` where none do."""
    level = levels_within(windows, coverage)
    if level is None:
        return None
    held = (n for n in range(level, -1, -1) if math.prod(h * w for h, w in windows[n:level]) == batch)
    inner = next(held, None)
    return None if inner is None else (inner, level)


def layers_of_trunk(
    subject: Subject, trunk: TrunkRecord, precision: Precision, frame: Frame, phase: Phase
) -> dict[str, Placed]:
    """Every layer of a trunk at one phase of a frame, in the order of the graph."""
    manifest, grid = subject.bundle.manifest, subject.bundle.manifest.grid(trunk)
    graph = ProbedGraph(subject.bundle.file(subject.bundle.trunk_graph(trunk, precision)), precision)
    planes = planes_of(subject.bundle, frame.image)
    outputs = graph.layer_outputs
    with graph.runner(outputs.values()) as runner:
        results = runner.infer(grid.feed(planes, [phase]))
    outermost = trunk.lowering is Lowering.STRIDED
    found = {
        layer: placed(probed(results, name), grid.padded_size, manifest.windows, phase, outermost=outermost)
        for layer, name in outputs.items()
    }
    return {layer: value for layer, value in found.items() if value is not None}


def layers_of_model(subject: Subject, frame: Frame, phase: Phase, levels: int) -> dict[str, Placed]:
    """Every layer of ``model.onnx`` at one phase of the first ``levels``."""
    manifest = subject.bundle.manifest
    windows, size = manifest.windows, manifest.input.padded_size
    graph = ProbedGraph(subject.bundle.file(manifest.model))
    outputs, shapes, samples = graph.layer_outputs, graph.shapes(), {}
    for name in outputs.values():
        sample = _sample(shapes.get(name, ()), size, windows, phase, levels)
        if sample is not None:
            samples[name] = sample
    with graph.runner(samples=samples) as runner:
        results = runner.infer({"frames": frame.image[None]})
    found = {
        layer: placed(probed(results, name), size, windows, phase) for layer, name in outputs.items() if name in samples
    }
    return {layer: value for layer, value in found.items() if value is not None}


def _sample(shape: tuple[int, ...], size: Size, windows: list[Size], phase: Phase, levels: int) -> Sample | None:
    """The part of a tensor of the whole graph that belongs to a phase of the first ``levels``."""
    if len(shape) != 4 or size[0] % shape[2] or size[1] % shape[3]:
        return None
    coverage = size[0] // shape[2], size[1] // shape[3]
    level = levels_within(windows, coverage)
    if level is None or shape[0] != math.prod(coverage):
        return None
    digits, index = level_offsets(windows[:levels], phase), 0
    for (row, column), (h, w) in zip(digits[:level], windows[: min(level, levels)], strict=False):
        index = index * h * w + row * w + column
    held = math.prod(h * w for h, w in windows[levels:level])
    rest = windows[level:levels]
    step = total_window(rest)
    offset = phase[0] // coverage[0] % step[0], phase[1] // coverage[1] % step[1]
    return Sample((index * held, (index + 1) * held), offset, step)


def layers_of_network(
    subject: Subject, traced: TracedNetwork, frame: Frame, phase: Phase, levels: int
) -> dict[str, Placed]:
    """Every convolution of the PyTorch network, with the batch norm that follows it, at one phase."""
    manifest = subject.bundle.manifest
    windows, size = manifest.windows, manifest.input.padded_size
    outputs: dict[str, NDArray[np.float32]] = {}
    made: dict[int, tuple[str, torch.Tensor]] = {}

    def record(name: str, layer: nn.Module, given: torch.Tensor, result: torch.Tensor) -> None:
        if isinstance(layer, nn.BatchNorm2d):
            name = made[id(given)][0] if id(given) in made else ""
        if name:
            # A copy: activations may work in place. The tensor is kept so that its id stays its own.
            outputs[name] = result.detach().numpy().copy()
            made[id(result)] = name, result

    hooks = [
        layer.register_forward_hook(lambda layer, given, result, name=name: record(name, layer, given[0], result))
        for name, layer in traced.module.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d))
    ]
    grid = PhaseGrid(manifest.input.size, size, total_window(windows[:levels]), (0, 0, 0, 0))
    normalization = Normalization(manifest.input.mean, manifest.input.std)
    try:
        phase_logits(traced, frame.image, grid, phase, normalization)
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: placed(values, size, windows, phase) for name, values in outputs.items()}
    return {name: value for name, value in found.items() if value is not None}


def first_that_differs(actual: Mapping[str, Placed], expected: Mapping[str, Placed]) -> str | None:
    """The first layer, in the order of ``actual``, that is further from ``expected`` than rounding explains."""
    for name, value in actual.items():
        if name in expected:
            error = value.error(expected[name])
            if error is not None and not error <= _DIFFERS:
                return f"{name} (relative error {error:.2g})"
    return None
