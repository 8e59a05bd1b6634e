"""Reference cases of a bundle: frames, and what PyTorch computes for one phase of each.

The network runs as it was handed over, with its first splits shrunk at the phase (section 3.2 of the paper used at
inference): no rewrite of this package takes part, so that a case checks them all. One phase costs
``1 / (h * w)`` of the frame, which keeps an export at full resolution within a minute.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters.analysis.levels import levels_within, total_window
from converters.analysis.network import TracedNetwork
from converters.analysis.received import logits_of
from converters.graphs.stages import Normalization, Prepare
from converters.pooling import Offset, Window, pinned_offsets
from engines.bundle.edges import EdgeFrame, edge_frame
from engines.bundle.manifest import EdgeRecord, InputRecord, ReferenceRecord
from engines.errors import LayoutError, NetworkError
from engines.schedules.phases import Phase, PhaseGrid, Size

_FEWEST_PIXELS = 8192
"""Of a reference phase. One label that differs is then above the tolerance of fp32, 99.99%."""


_FEWEST_EDGE_PIXELS = 256
"""Of a phase of a generated frame: they are many, and their logits are compared, not their labels."""


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


def write_reference(
    stage: Path, network: TracedNetwork, frame: InputRecord, images: Sequence[NDArray[np.uint8]] = ()
) -> list[ReferenceRecord]:
    """Write the reference cases of a bundle that is being made: frames, and PyTorch's logits of a phase of each.

    Args:
        stage: the bundle's directory, without a folder ``reference``.
        network: what is exported.
        frame: what the bundle takes.
        images: uint8 ``(H, W, 3)`` of its size; one of noise where there are none.

    Raises :class:`NetworkError` for logits that are not finite.
    """
    (stage / "reference").mkdir()
    records = []
    for index, image in enumerate(images or (noise_frame(frame.size, seed=0),)):
        case = reference_case(network, frame, image, index)
        record = ReferenceRecord(
            frame=f"reference/frame-{index}.npy",
            window=case.window,
            phase=case.phase,
            logits=f"reference/logits-{index}.npy",
        )
        _write_array(stage / record.frame, image)
        _write_array(stage / record.logits, case.logits)
        records.append(record)
    return records


@dataclass(frozen=True, eq=False)
class ReferenceCase:
    """What PyTorch computes for one phase of a frame."""

    window: Window
    phase: Phase
    logits: NDArray[np.float32]
    """``(classes, i, j)``, of the padded frame."""


def reference_case(network: TracedNetwork, frame: InputRecord, image: NDArray[np.uint8], index: int) -> ReferenceCase:
    """A phase of a frame: another one for each index. Raises :class:`NetworkError` for logits that are not finite."""
    levels = reference_levels(frame.padded_size, network.windows, network.most_levels)
    window = total_window(network.windows[:levels])
    grid = PhaseGrid(frame.size, frame.padded_size, window, (0, 0, 0, 0))
    phase = reference_phase(window, index)
    try:
        logits = phase_logits(network, image, grid, phase, Normalization(frame.mean, frame.std))
    except RuntimeError as error:
        if "allocate memory" in str(error):
            raise MemoryError(f"a frame of {frame.size[0]}x{frame.size[1]} is too large for it") from error
        raise
    if not np.isfinite(logits).all():
        raise NetworkError("the network's logits are not finite on a reference frame; check the checkpoint")
    return ReferenceCase(window, phase, logits)


def write_edges(stage: Path, network: TracedNetwork, frame: InputRecord) -> EdgeRecord | None:
    """Write PyTorch's logits of one phase of each generated frame beside the reference cases.

    One for which they are not finite is left out; ``None`` where none is.
    """
    levels = reference_levels(frame.padded_size, network.windows, network.most_levels, _FEWEST_EDGE_PIXELS)
    window = total_window(network.windows[:levels])
    grid = PhaseGrid(frame.size, frame.padded_size, window, (0, 0, 0, 0))
    normalization = Normalization(frame.mean, frame.std)
    phases = {kind: reference_phase(window, case) for case, kind in enumerate(EdgeFrame)}
    computed = {
        kind: phase_logits(network, edge_frame(kind, frame.size), grid, phase, normalization)
        for kind, phase in phases.items()
    }
    finite = [kind for kind, logits in computed.items() if np.isfinite(logits).all()]
    if not finite:
        return None
    record = EdgeRecord(
        frames=finite, window=window, phases=[phases[kind] for kind in finite], logits="reference/edges.npy"
    )
    _write_array(stage / record.logits, np.stack([computed[kind] for kind in finite]))
    return record


def digest_of_parameters(network: nn.Module) -> str:
    """SHA-256 of a network's parameters and buffers: name, shape and values as float64, in the order of their names.

    How often statistics were updated is no part of what is computed, and is left out.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        values = np.ascontiguousarray(tensor.detach().cpu().double().numpy(), "<f8")
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode() + values.tobytes())
    return digest.hexdigest()


def reference_levels(size: Size, windows: Sequence[Window], most: int, fewest: int | None = None) -> int:
    """How many levels to shrink: as many as leave the phase ``fewest`` pixels, enough for a meaningful comparison."""
    levels, fewest = 0, _FEWEST_PIXELS if fewest is None else fewest
    while levels < most and math.prod(size) // math.prod(total_window(windows[: levels + 1])) >= fewest:
        levels += 1
    return levels


def reference_phase(window: Window, case: int) -> Phase:
    """The phase of a case: rows and columns differ where they can, so that exchanging them is seen."""
    phases = window[0] * window[1]
    return divmod((phases * 3 // 8 + case * 5) % phases, window[1])


def phase_logits(
    network: TracedNetwork, frame: NDArray[np.uint8], grid: PhaseGrid, phase: Phase, normalization: Normalization
) -> NDArray[np.float32]:
    """PyTorch's logits ``(classes, i, j)`` float32 of one phase of a frame ``(H, W, 3)`` uint8.

    The network runs as it was handed over, its own splits shrunk at the phase where they can be; else it computes the
    frame in full.

    Args:
        network: in evaluation mode.
        frame: of the grid's frame size.
        grid: frame, padding and phases, without a border; its window is that of the network's first levels.
        phase: which split batch to compute.
        normalization: of the frame.

    Raises :class:`LayoutError` for a window that is not that of some levels.
    """
    levels = levels_within(network.windows, grid.window)
    if levels is None:
        raise LayoutError(f"a window of {grid.window} is not that of the first of the levels {network.windows}")
    layers = network.split_layers[:levels] if levels <= len(network.split_layers) else ()
    offsets = level_offsets(network.windows[: len(layers)], phase)
    pinned = {layer: offset for held, offset in zip(layers, offsets, strict=True) for layer in held}
    with torch.inference_mode(), pinned_offsets(pinned):
        planes = Prepare(normalization, grid)(torch.from_numpy(frame))
        logits = logits_of(network.module, planes.unsqueeze(0))[0]
    return np.ascontiguousarray(grid.at_phase(logits.numpy(), phase))


def level_offsets(windows: Sequence[Window], phase: Phase) -> list[Offset]:
    """The offset of each level that together make a phase: its digits in the mixed radix of the windows."""
    row, column = phase
    offsets = []
    for h, w in windows:
        offsets.append((row % h, column % w))
        row, column = row // h, column // w
    return offsets


def _write_array(path: Path, array: NDArray[Any]) -> None:
    # numpy's own writing to a file hides why it failed: a full disk becomes "requested and written".
    content = io.BytesIO()
    np.save(content, array)
    path.write_bytes(content.getbuffer())
