"""Reference cases of a bundle: frames, and what PyTorch computes for one phase of each.

The network runs as it was handed over, with its first splits shrunk at the phase (section 3.2 of the paper used at
inference): no rewrite of this package takes part, so that a case checks them all. One phase costs
``1 / (h * w)`` of the frame, which keeps an export at full resolution within a minute.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters.pooling import Offset, SplitPool2d, Window, pinned_offsets
from converters.stages import Normalization, Prepare
from engines.phases import Phase, PhaseGrid, Size


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


def reference_phase(grid: PhaseGrid, case: int) -> Phase:
    """The phase of a case: rows and columns differ where they can, so that exchanging them is seen."""
    phases = grid.phases
    return phases[(len(phases) * 3 // 8 + case * 5) % len(phases)]


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
        outer_splits: the splits of the levels that the grid walks, level by level.
        frame: of the grid's frame size.
        grid: frame, padding and phases.
        phase: which split batch to compute.
        normalization: of the frame.
    """
    offsets = level_offsets([layers[0].window for layers in outer_splits], phase)
    pinned = {layer: offset for layers, offset in zip(outer_splits, offsets, strict=True) for layer in layers}
    borderless = PhaseGrid(grid.frame_size, grid.padded_size, grid.window, (0, 0, 0, 0))
    with torch.inference_mode(), pinned_offsets(pinned):
        planes = Prepare(normalization, borderless)(torch.from_numpy(frame))
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
