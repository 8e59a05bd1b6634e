"""Reference cases of a bundle: frames, and what PyTorch computes for one phase of each.

The network runs as it was handed over, with its first splits shrunk at the phase (section 3.2 of the paper used at
inference): no rewrite of this package takes part, so that a case checks them all. One phase costs
``1 / (h * w)`` of the frame, which keeps an export at full resolution within a minute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from converters.analysis.levels import levels_from_graph, total_window
from converters.analysis.tracing import layer_of, merge_window, split_window
from converters.graphs.stages import Normalization, Prepare
from converters.pooling import MergePool2d, Offset, SharedOffset, SplitPool2d, Window, pinned_offsets
from engines.schedules.phases import Phase, PhaseGrid, Size

_FEWEST_PIXELS = 8192
"""Of a reference phase. One label that differs is then above the tolerance of fp32, 99.99%."""


def noise_frame(size: Size, seed: int) -> NDArray[np.uint8]:
    """Noise with the range and the smoothness of real frames: ``(H, W, 3)`` uint8.

    Octaves of smooth noise, each half as strong at twice the frequency, stretched over [0, 255].
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    total = torch.zeros(1, 3, height, width)
    for octave in range(1, 8):
        cells = torch.rand(1, 3, min(2**octave, height), min(2**octave * 2, width), generator=generator)
        total += nn.functional.interpolate(cells, size=size, mode="bilinear", align_corners=False) / 2**octave
    total = (total - total.min()) / (total.max() - total.min()).clamp_min(1e-6)
    return (total[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def reference_levels(size: Size, windows: Sequence[Window], most: int) -> int:
    """How many levels to shrink: as many as leave the phase enough pixels for a meaningful comparison."""
    levels = 0
    while levels < most and math.prod(size) // math.prod(total_window(windows[: levels + 1])) >= _FEWEST_PIXELS:
        levels += 1
    return levels


def reference_phase(window: Window, case: int) -> Phase:
    """The phase of a case: rows and columns differ where they can, so that exchanging them is seen."""
    phases = window[0] * window[1]
    return divmod((phases * 3 // 8 + case * 5) % phases, window[1])


def phase_logits(
    network: nn.Module,
    outer_splits: list[list[SplitPool2d]],
    frame: NDArray[np.uint8],
    grid: PhaseGrid,
    phase: Phase,
    normalization: Normalization,
) -> NDArray[np.float32]:
    """PyTorch's logits ``(classes, i, j)`` float32 of one phase of a frame ``(H, W, 3)`` uint8.

    Args:
        network: as the user handed it over, in evaluation mode.
        outer_splits: the splits of the levels that the grid walks, level by level; none to compute the whole.
        frame: of the grid's frame size.
        grid: frame, padding and phases, without a border.
        phase: which split batch to compute.
        normalization: of the frame.
    """
    offsets = level_offsets([layers[0].window for layers in outer_splits], phase)
    pinned = {layer: offset for layers, offset in zip(outer_splits, offsets, strict=True) for layer in layers}
    with torch.inference_mode(), pinned_offsets(pinned):
        planes = Prepare(normalization, grid)(torch.from_numpy(frame))
        logits = network(planes.unsqueeze(0))[0]
    return np.ascontiguousarray(grid.at_phase(logits.numpy(), phase))


def level_offsets(windows: list[Window], phase: Phase) -> list[Offset]:
    """The offset of each level that together make a phase: its digits in the mixed radix of the windows."""
    row, column = phase
    offsets = []
    for h, w in windows:
        offsets.append((row % h, column % w))
        row, column = row // h, column // w
    return offsets


def outer_splits(network: nn.Module, graph: fx.GraphModule, levels: int) -> list[list[SplitPool2d]]:
    """The user's own split layers of the first ``levels``, level by level.

    Empty where pinning their offsets would not do: a functional split or merge has no offset, and an offset that
    several levels share, or that a merge of another level shares, would be pinned in the wrong place too. Then
    PyTorch computes the frame in full.

    Args:
        network: as the user handed it over.
        graph: its trace.
        levels: how many levels a phase is to be taken of.
    """
    stacks = levels_from_graph(graph).stacks
    found: list[list[SplitPool2d]] = [[] for _ in range(levels)]
    places: dict[SharedOffset, set[int]] = {}
    for node in graph.graph.nodes:
        stack = stacks.get(node, ())
        is_split = split_window(graph, node) is not None
        if not is_split and merge_window(graph, node) is None:
            continue
        # A split ends on its level, a merge begins on it.
        level = len(stack) - 1 if is_split else len(stack)
        if not isinstance(layer_of(graph, node), (SplitPool2d, MergePool2d)):
            if level < levels:
                return []
            continue
        original = network.get_submodule(str(node.target))
        assert isinstance(original, (SplitPool2d, MergePool2d))
        places.setdefault(original.shared, set()).add(level)
        if isinstance(original, SplitPool2d) and level < levels:
            found[level].append(original)
    pinned = {layer.shared for layers in found for layer in layers}
    merged = {offset for offset, on in places.items() if len(on) == 1}
    return found if pinned <= merged else []
