"""Whether schedules give what the whole graph gives: logits and labels compared, pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Manifest
from engines.schedules.schedule import Schedule
from engines.session import Session

LOGITS_TOLERANCE = 1e-5
"""Of a difference of logits, relative to the largest logit."""

TIE = 1e-4
"""Labels may differ where the two highest logits of the whole are this near, relative to the largest logit."""


@dataclass(frozen=True)
class Difference:
    """How far the logits of a schedule are from those of the whole graph."""

    relative_error: float
    """Largest difference of a logit, relative to the largest logit of the whole."""
    labels_differ: int
    """Pixels whose labels differ."""
    widest_gap: float
    """Largest gap, among these pixels, between the two highest logits of the whole, relative to the largest."""

    @property
    def exact(self) -> bool:
        """Whether nothing but rounding differs."""
        return self.relative_error <= LOGITS_TOLERANCE and self.widest_gap <= TIE


def difference(whole: NDArray[np.float32], logits: NDArray[np.float32]) -> Difference:
    """Compare logits ``(classes, H, W)``. What is not finite in either is infinitely far."""
    if not (np.isfinite(whole).all() and np.isfinite(logits).all()):
        return Difference(float("inf"), int(whole[0].size), float("inf"))
    scale = max(float(np.abs(whole).max()), float(np.finfo(np.float32).tiny))
    differ = whole.argmax(0) != logits.argmax(0)
    highest = np.sort(whole, axis=0)[-2:]
    gaps = (highest[-1] - highest[0])[differ] / scale
    return Difference(
        float(np.abs(whole - logits).max()) / scale, int(differ.sum()), float(gaps.max()) if gaps.size else 0.0
    )


def all_schedules(manifest: Manifest) -> list[Schedule]:
    """Every trunk with one phase at a time, and with all that can go together."""
    return [
        Schedule(trunk.levels, size, trunk.lowering)
        for trunk in manifest.trunks
        for size in sorted({1, manifest.grid(trunk).largest_sub_batch})
    ]


def differences(bundle: Bundle, frame: NDArray[np.uint8]) -> Iterator[tuple[Schedule, Difference]]:
    """Every schedule of a bundle of logits against its whole graph, in ONNX Runtime on the CPU."""
    # Without the arena: the whole graph holds the most memory there is.
    with OnnxRuntimeRunner(bundle.file(bundle.manifest.model), arena=False) as runner:
        whole: Any = runner.infer({"frames": frame[None]})["logits"][0]
    for schedule in all_schedules(bundle.manifest):
        with Session.open(bundle, schedule=schedule) as session:
            yield schedule, difference(whole, session.predict(frame))
