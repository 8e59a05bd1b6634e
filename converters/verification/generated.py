"""Generated frames that are small enough for every phase of every trunk, and what ``model.onnx`` makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from converters.reference import noise_frame
from converters.verification.forms import FrameForm
from engines.bundle.edges import EdgeFrame, edge_frame
from engines.parity.comparison import largest_logit

_SEEDS = (17, 18)

OF_NOISE = len(_SEEDS)
"""How many frames of noise stand before those at the edges."""


@dataclass(frozen=True, eq=False)
class SmallFrames:
    """Frames of a small form, with what prepares and judges them."""

    form: FrameForm
    images: list[NDArray[np.uint8]]
    """Two of noise, then those at the edges."""
    planes: list[NDArray[np.float32]]
    logits: list[NDArray[np.float32]]
    """Of ``model.onnx``, ``(classes, H, W)``, one frame at a time."""
    pair: NDArray[np.float32] | None
    """Of the second and the first frame in one batch; ``None`` for a graph that takes one frame at a time."""

    @classmethod
    def of(cls, form: FrameForm) -> SmallFrames:
        """Raises :class:`BackendError`."""
        images = [noise_frame(form.size, seed) for seed in _SEEDS]
        images += [edge_frame(kind, form.size) for kind in EdgeFrame]
        planes = form.planes(images)

        def logits_of(*frames: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.asarray(runner.infer({"frames": np.stack(frames)})["logits"], np.float32)

        with form.model().runner() as runner:
            alone = [logits_of(image)[0] for image in images]
            pair = None if runner.inputs[0].shape[0] is not None else logits_of(images[1], images[0])
        return cls(form, images, planes, alone, pair)

    @cached_property
    def scale(self) -> float:
        """What errors are relative to: the largest logit of the frames of noise."""
        return max(largest_logit(logits) for logits in self.logits[:OF_NOISE]) or 1.0

    @property
    def words(self) -> str:
        """For people."""
        return f"generated frames of {self.form.size[0]}x{self.form.size[1]}"
