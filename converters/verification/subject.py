"""What is verified: a bundle, the frames it is verified on, the tolerances, and what is found on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import nn

from converters.reference import noise_frame
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import ReferenceRecord, TrunkRecord
from engines.parity.checks import Tolerance, tolerance_of
from engines.parity.metrics import confusion_counts
from engines.schedules.phases import Size
from engines.schedules.schedule import Precision

IGNORED = 255
"""Label of pixels that no mean IoU counts."""

_NOTHING_IGNORED = -1


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame to verify on."""

    name: str
    image: NDArray[np.uint8]
    """``(H, W, 3)`` RGB."""
    case: ReferenceRecord | None = None
    """What PyTorch computed for it when the bundle was exported."""
    logits: NDArray[np.float32] | None = None
    """Of the case: ``(classes, i, j)``."""
    truth: NDArray[np.uint8] | None = None
    """``(H, W)`` classes that a person has given, :data:`IGNORED` where none."""


def reference_frames(bundle: Bundle) -> list[Frame]:
    """The bundle's reference cases; a frame of noise where it has none."""
    frames = []
    for index, case in enumerate(bundle.manifest.reference):
        image, logits = bundle.reference_arrays(case)
        frames.append(Frame(f"reference frame {index}", image, case, logits))
    return frames or [Frame("noise", noise_frame(bundle.manifest.input.size, seed=0))]


@dataclass
class Layer:
    """What is known of one layer's output."""

    magnitude: float = 0.0
    """Largest absolute value in fp32."""
    largest: dict[str, float] = field(default_factory=dict)
    """Largest absolute value by precision; NaN or infinite where one is not finite."""
    error: dict[str, float] = field(default_factory=dict)
    """By precision: largest absolute error against fp32, relative to ``magnitude``."""


@dataclass
class Agreement:
    """Labels of one precision against those of fp32, summed over frames."""

    classes: int
    pixels: int = 0
    differing: int = 0
    ties: int = 0
    near: int = 0
    near_differing: int = 0
    confusion: NDArray[np.int64] = field(init=False)
    """Class in fp32 (row) against class in the precision (column)."""
    by_phase: NDArray[np.float64] | None = None
    """Share of differing pixels at every phase, of the frame that was computed whole."""
    error_by_phase: NDArray[np.float64] | None = None
    """Mean absolute error of the logits at every phase, relative to the largest logit."""

    judged: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Confusion with the labels that people gave, of ``fp32`` and of the ``precision``."""

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.classes, self.classes), np.int64)

    def judge(self, actual: NDArray[np.integer], expected: NDArray[np.integer], truth: NDArray[np.uint8]) -> None:
        """Count labels against what a person has given."""
        for name, labels in (("fp32", expected), ("precision", actual)):
            counts = confusion_counts(self._known(labels), truth, self.classes, IGNORED)
            self.judged[name] = self.judged.get(name, 0) + counts

    def add(
        self,
        actual: NDArray[np.integer],
        expected: NDArray[np.integer],
        ties: NDArray[np.bool_],
        near: NDArray[np.bool_],
    ) -> None:
        """Count the pixels of maps of one shape."""
        differs = actual != expected
        self.pixels += actual.size
        self.differing += int(differs.sum())
        self.ties += int((differs & ties).sum())
        self.near += int(near.sum())
        self.near_differing += int((differs & near).sum())
        self.confusion += confusion_counts(self._known(actual), expected, self.classes, _NOTHING_IGNORED)

    def _known(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """A label that is no class counts as the last one: a fault, but one that must not end the checks."""
        return np.minimum(labels.astype(np.intp), self.classes - 1)


@dataclass
class Overlay:
    """Labels of a frame, or of every so many of its pixels, in fp32 and in a precision."""

    name: str
    precision: str
    image: NDArray[np.uint8]
    expected: NDArray[np.integer]
    actual: NDArray[np.integer]
    ties: NDArray[np.bool_]


@dataclass
class Findings:
    """What the checks have seen, for the report."""

    window: Size = (1, 1)
    layers: dict[str, Layer] = field(default_factory=dict)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    overlays: list[Overlay] = field(default_factory=list)
    feeds: list[dict[str, NDArray[np.generic]]] = field(default_factory=list)
    """Inputs of the default trunk, a frame each."""
    outputs: dict[str, list[dict[str, NDArray[np.generic]]]] = field(default_factory=dict)
    """By precision: what the default trunk gave for the feeds."""


@dataclass
class Subject:
    """All that a check is given."""

    bundle: Bundle
    frames: list[Frame]
    """The bundle's own first: only they have PyTorch's logits."""
    overrides: Mapping[str, float] = field(default_factory=dict)
    network: nn.Module | None = None
    """The network the bundle was exported from."""
    findings: Findings = field(default_factory=Findings)

    def tolerance(self, precision: Precision) -> Tolerance:
        """The table's row, with what the user has replaced."""
        return tolerance_of(precision, self.overrides)

    @property
    def judged(self) -> list[Frame]:
        """The frames whose labels count: the user's where there are some."""
        return [frame for frame in self.frames if frame.case is None] or self.frames

    @property
    def precisions(self) -> list[Precision]:
        """Of the default trunk, without fp32."""
        return [precision for precision in self.bundle.manifest.trunk().graphs if precision is not Precision.FP32]


def runnable(trunk: TrunkRecord) -> list[Precision]:
    """The precisions of a trunk that ONNX Runtime computes on a CPU, fp32 first."""
    return [Precision.FP32, *(held for held in trunk.graphs if held not in (Precision.FP32, Precision.BF16))]
