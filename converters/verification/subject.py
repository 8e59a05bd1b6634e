"""What is verified: a bundle, the frames it is verified on, and the tolerances it is held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import nn

from converters.analysis.network import TracedNetwork, traced_network
from converters.analysis.received import working_copy
from converters.graphs.rounding import rounding_refusal
from engines.backends.onnxruntime.cpu import ONNXRUNTIME_CPU
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import ReferenceRecord, TrunkRecord
from engines.bundle.records import Tolerance
from engines.parity.tolerances import tolerance_of
from engines.schedules.schedule import Precision

IGNORED = 255
"""Label of pixels that no mean IoU counts."""


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame to verify on."""

    name: str
    image: NDArray[np.uint8]
    """``(H, W, 3)`` RGB."""
    _: KW_ONLY
    case: ReferenceRecord | None = None
    """What PyTorch computed for it when the bundle was exported."""
    logits: NDArray[np.float32] | None = None
    """Of the case: ``(classes, i, j)``."""
    truth: NDArray[np.uint8] | None = None
    """``(H, W)`` classes that a person has given, :data:`IGNORED` where none."""


def reference_frames(bundle: Bundle) -> list[Frame]:
    """The bundle's reference cases. Raises :class:`BundleError` for logits of more classes than the manifest names."""
    frames = []
    for index, case in enumerate(bundle.manifest.reference):
        image, logits = bundle.reference_arrays(case)
        bundle.manifest.check_classes(len(logits))
        frames.append(Frame(f"reference frame {index}", image, case=case, logits=logits))
    return frames


@dataclass(frozen=True, eq=False)
class Subject:
    """All that is given; what checks find, they give on."""

    bundle: Bundle
    frames: list[Frame]
    """The bundle's own first: only they have PyTorch's logits."""
    overrides: Mapping[str, float] = field(default_factory=dict)
    network: nn.Module | None = None
    """The network the bundle was exported from."""
    quick: bool = False
    """Whether the proofs on generated frames are left out."""
    rotation: int = 0
    """Which of the phases are taken where not all can be: another number, others."""

    @cached_property
    def traced(self) -> TracedNetwork | None:
        """A copy of the network, understood once for all frames."""
        if self.network is None:
            return None
        return traced_network(working_copy(self.network), self.bundle.manifest.input.size)

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
    """The precisions of a trunk that can be judged in ONNX Runtime on this CPU, fp32 first."""
    others = (held for held in trunk.graphs if held is not Precision.FP32)
    return [Precision.FP32, *(held for held in others if refusal(held) is None)]


def refusal(precision: Precision) -> str | None:
    """Why a precision cannot be judged in ONNX Runtime on this CPU; ``None`` where it can."""
    reason = ONNXRUNTIME_CPU.refusal(precision)
    return rounding_refusal() if reason is None and precision is Precision.FP16 else reason
