"""Activation ranges of a network's convolutions, measured once on calibration frames.

PyTorch runs the network of the default trunk, phase by phase, so that memory stays bounded however large the frame.
A split, a merge or another number of levels only moves values: the ranges belong to the modules, and hold for every
trunk of the bundle.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from converters.analysis.modules import original_module
from converters.analysis.tracing import layer_of
from converters.graphs.quantization.calibrators import CalibrationMethod, Histogram
from converters.graphs.stages import Normalization, Prepare
from engines.errors import NetworkError
from engines.schedules.phases import PhaseGrid, dispersed

_PHASES_OF_A_FRAME = 4
"""Every phase samples the whole frame; a few, far apart, have seen it."""


@dataclass(frozen=True)
class CalibrationConfig:
    """How to find the ranges of activations."""

    frames: tuple[NDArray[np.uint8], ...] = field(compare=False)
    """``(H, W, 3)`` uint8, of the bundle's size, such as the network is meant for."""
    method: CalibrationMethod = CalibrationMethod.PERCENTILE
    percentile: float = 99.99
    """For :attr:`CalibrationMethod.PERCENTILE`: values that are not cut off, in per cent."""


def ranges_from_frames(
    network: fx.GraphModule, grid: PhaseGrid, normalization: Normalization, config: CalibrationConfig
) -> dict[str, float]:
    """The magnitude that becomes 127 at the input of every convolution, by module.

    Args and errors are those of :func:`histograms_from_frames`.
    """
    histograms = histograms_from_frames(network, grid, normalization, config.frames)
    return {module: held.range(config.method, config.percentile) for module, held in histograms.items()}


def histograms_from_frames(
    network: fx.GraphModule, grid: PhaseGrid, normalization: Normalization, frames: tuple[NDArray[np.uint8], ...]
) -> dict[str, Histogram]:
    """The magnitudes at the input of every convolution, by module.

    Args:
        network: of a trunk: windows, and offsets where there are inner windows, to logits.
        grid: of that trunk.
        normalization: of the frames.
        frames: ``(H, W, 3)`` uint8.

    Raises :class:`NetworkError` for activations that are not finite.
    """
    histograms: defaultdict[str, Histogram] = defaultdict(Histogram)
    prepare, recorder = Prepare(normalization, grid).eval(), _Recorder(network, histograms)
    with torch.inference_mode():
        for frame in frames:
            # A copy: PyTorch takes no array that is read-only.
            planes = prepare(torch.from_numpy(frame.copy())).numpy()
            for phase in dispersed(grid.window)[:_PHASES_OF_A_FRAME]:
                inputs = [torch.from_numpy(grid.cut(planes, [phase]))]
                if grid.inner_windows:
                    inputs.append(torch.from_numpy(grid.inner_offsets([phase])))
                recorder.run(*inputs)
    for module, held in histograms.items():
        if not np.isfinite(held.largest):
            raise NetworkError(f"the activations before {module} are not finite on a calibration frame")
    return dict(histograms)


class _Recorder(fx.Interpreter):
    """Runs a traced network and counts what each of its convolutions reads."""

    def __init__(self, network: fx.GraphModule, histograms: dict[str, Histogram]) -> None:
        super().__init__(network)
        self._network = network
        self._histograms = histograms

    def run_node(self, n: fx.Node) -> Any:
        if isinstance(layer_of(self._network, n), nn.Conv2d):
            (source,) = self.fetch_args_kwargs_from_env(n)[0]
            self._histograms[original_module(self._network, str(n.target))].add(source.numpy())
        return super().run_node(n)
