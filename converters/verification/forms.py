"""A bundle's graphs for another frame size, small enough to run all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from converters.analysis.levels import total_window
from converters.verification.probes import ProbedGraph
from converters.verification.resizing import ResizingError, Shape, resize
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import OutputKind, TrunkRecord
from engines.schedules.phases import PhaseGrid, Size
from engines.schedules.schedule import Precision

_SMALLEST = (24, 32)
"""Sides that a small frame has at least; unlike each other, so that exchanged axes are seen."""

_MOST_PIXELS = 2**15
"""A frame of more is not small."""


@dataclass(frozen=True)
class FrameForm:
    """The graphs of a bundle for one frame size, which may be that of the bundle.

    The functions raise :class:`ResizingError` for a graph that is bound to the bundle's own size.
    """

    bundle: Bundle
    size: Size
    """Of the frames."""
    padded_size: Size
    _known: dict[str, ProbedGraph] = field(default_factory=dict, repr=False, compare=False)

    @property
    def own(self) -> bool:
        """Whether it is the bundle's own size, and its graphs are run as they are."""
        return self.padded_size == self.bundle.manifest.input.padded_size

    def grid(self, trunk: TrunkRecord) -> PhaseGrid:
        """The phases that are walked with this trunk."""
        border = self.bundle.manifest.input.border
        return PhaseGrid(self.size, self.padded_size, trunk.cut_window, border, tuple(trunk.inner_windows))

    def prediction_shape(self, trunk: TrunkRecord) -> Shape:
        """Of what a trunk gives for one phase."""
        manifest = self.bundle.manifest
        classes = () if manifest.outputs is OutputKind.LABELS else (len(manifest.classes),)
        return *classes, *self.grid(trunk).phase_size

    def trunk(self, trunk: TrunkRecord, precision: Precision) -> ProbedGraph:
        """The graph of a trunk."""
        grid = self.grid(trunk)
        inputs: dict[str, Shape] = {"windows": (1, 3, *grid.crop_size)}
        if grid.inner_windows:
            inputs["offsets"] = (len(grid.inner_windows), 2)
        output = {self.bundle.manifest.outputs.value: (1, *self.prediction_shape(trunk))}
        return self._graph(trunk.graphs[precision], inputs, output, precision)

    def model(self) -> ProbedGraph:
        """``model.onnx``."""
        manifest = self.bundle.manifest
        logits = (1, len(manifest.classes), *self.size)
        return self._graph(manifest.model, {"frames": (1, *self.size, 3)}, {"logits": logits})

    def prepare(self) -> ProbedGraph:
        """``prepare.onnx``."""
        planes = (3, *self.grid(self.bundle.manifest.trunk()).planes_size)
        return self._graph(self.bundle.manifest.prepare, {"frame": (*self.size, 3)}, {"planes": planes})

    def planes(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """What ``prepare.onnx`` makes of frames ``(H, W, 3)``."""
        with self.prepare().runner() as runner:
            return [np.asarray(runner.infer({"frame": image})["planes"], np.float32) for image in images]

    def _graph(
        self,
        name: str,
        inputs: dict[str, Shape],
        outputs: dict[str, Shape],
        precision: Precision = Precision.FP32,
    ) -> ProbedGraph:
        if name not in self._known:
            graph = ProbedGraph(self.bundle.file(name), precision)
            if not self.own:
                resize(graph.model, inputs, outputs)
            self._known[name] = graph
        return self._known[name]


def small_forms(bundle: Bundle) -> Iterator[FrameForm | ResizingError]:
    """Forms that every fp32 graph has, the smallest first, or what keeps a graph from having one."""
    for form in _candidates(bundle):
        try:
            form.model()
            form.prepare()
            for trunk in bundle.manifest.trunks:
                form.trunk(trunk, Precision.FP32)
        except ResizingError as error:
            yield error
        else:
            yield form


def _candidates(bundle: Bundle) -> Iterator[FrameForm]:
    frame, window = bundle.manifest.input, total_window(bundle.manifest.windows)
    (height, width), (h, w) = frame.padded_size, window
    missing = frame.padded_size[0] - frame.size[0], frame.padded_size[1] - frame.size[1]
    for scale in (1, 2, 4):
        rows = min(height, h * max(scale, -(-_SMALLEST[0] // h)))
        columns = min(width, w * max(scale, -(-_SMALLEST[1] // w)))
        size = rows - missing[0], columns - missing[1]
        if min(size) > 0 and rows * columns <= _MOST_PIXELS:
            yield FrameForm(bundle, size, (rows, columns))
    if height * width <= _MOST_PIXELS:
        yield FrameForm(bundle, frame.size, frame.padded_size)
