"""What a packed file takes and what it gives: kinds, types and layouts of its inputs and its output."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np

from engines.bundle.manifest import OutputKind
from engines.errors import InputError


class InputKind(enum.Enum):
    """What the file takes for a frame of ``(H, W)``."""

    UINT8 = "uint8"
    """Pixels in [0, 255]."""
    SCALED = "scaled"
    """float32 ``y = scale * (x - mean)`` of pixels ``x`` in [0, 255], with one scale for all channels."""
    NORMALIZED = "normalized"
    """float32 ``(x / 255 - mean) / std`` with the bundle's figures: the host normalises."""
    NV12 = "nv12"
    """uint8 luma ``(H, W)`` and interleaved chroma ``(H/2, W/2, 2)``, U first, as cameras and decoders give them."""


class ColorOrder(enum.Enum):
    """In which order the channels come."""

    RGB = "rgb"
    BGR = "bgr"


class YuvMatrix(enum.Enum):
    """How luma and chroma stand for R, G and B."""

    BT601 = "bt601"
    BT709 = "bt709"


class YuvRange(enum.Enum):
    """Which values luma and chroma take."""

    LIMITED = "limited"
    """Luma in [16, 235], chroma in [16, 240]."""
    FULL = "full"
    """All in [0, 255]."""


class LabelType(enum.Enum):
    """Type of a label."""

    UINT8 = "uint8"
    INT32 = "int32"
    INT64 = "int64"


class LoopForm(enum.Enum):
    """How the sub-batches follow one another."""

    LOOP = "loop"
    """An ONNX ``Loop``, with the trunk once, as its body."""
    UNROLLED = "unrolled"
    """The trunk's nodes once for each sub-batch, with one copy of its weights, for a runtime without loops."""


INPUT_LAYOUTS = ("hwc", "chw", "nhwc", "nchw")
"""Orders of the axes of a frame; ``n`` is a batch of one."""
LABEL_LAYOUTS = ("hw", "nhw", "hwc", "chw", "nhwc", "nchw")
"""Of labels; ``n`` and ``c`` are axes of one."""
MAP_LAYOUTS = ("chw", "hwc", "nchw", "nhwc")
"""Of logits and probabilities; ``n`` is an axis of one."""


@dataclass(frozen=True)
class InputForm:
    """What the file takes."""

    kind: InputKind = InputKind.UINT8
    layout: str = "hwc"
    """One of :data:`INPUT_LAYOUTS`; NV12 has its own."""
    color: ColorOrder = ColorOrder.RGB
    scale: float = 1.0
    """Of :attr:`InputKind.SCALED`."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Of :attr:`InputKind.SCALED`: of pixels in [0, 255], in the order of :attr:`color`."""
    matrix: YuvMatrix = YuvMatrix.BT601
    """Of :attr:`InputKind.NV12`, as :attr:`range`."""
    range: YuvRange = YuvRange.LIMITED

    def check(self, size: tuple[int, int]) -> None:
        """Raise :class:`InputError` for what is no form of a frame of ``size``."""
        if self.layout not in INPUT_LAYOUTS:
            raise InputError(f"input_layout={self.layout!r} is unknown; known are {', '.join(INPUT_LAYOUTS)}")
        if not (math.isfinite(self.scale) and self.scale > 0 and all(map(math.isfinite, self.mean))):
            raise InputError(
                "input_scale= is a number above zero and input_mean= three finite numbers; received "
                f"{self.scale!r} and {self.mean!r}"
            )
        if self.kind is InputKind.NV12 and (size[0] % 2 or size[1] % 2):
            raise InputError(
                f'input="nv12" has one chroma sample for 2x2 pixels, so it needs even sides; the bundle\'s frame is '
                f"{size[0]}x{size[1]}"
            )

    def shapes(self, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """The inputs by name, with their shapes."""
        h, w = size
        if self.kind is InputKind.NV12:
            return {"luma": (h, w), "chroma": (h // 2, w // 2, 2)}
        return {"frame": laid_out(self.layout, size, 3)}

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of every input."""
        return np.dtype(np.uint8 if self.kind in (InputKind.UINT8, InputKind.NV12) else np.float32)


@dataclass(frozen=True)
class OutputForm:
    """What the file gives."""

    kind: OutputKind = OutputKind.LABELS
    layout: str = "hw"
    """One of :data:`LABEL_LAYOUTS` for labels, of :data:`MAP_LAYOUTS` for what has an axis of classes."""
    label_type: LabelType = LabelType.UINT8
    """Of labels."""

    def check(self, held: OutputKind) -> None:
        """Raise :class:`InputError` for what a bundle that gives ``held`` cannot give."""
        if self.kind is not held:
            raise InputError(
                f"the bundle gives {held.value}, and its trunks hold nothing else; export it with "
                f'outputs="{self.kind.value}"'
            )
        known = LABEL_LAYOUTS if self.kind is OutputKind.LABELS else MAP_LAYOUTS
        if self.layout not in known:
            raise InputError(
                f"output_layout={self.layout!r} is none of {self.kind.value}, which have {', '.join(known)}"
            )

    def shape(self, size: tuple[int, int], classes: int) -> tuple[int, ...]:
        """Of the output."""
        return laid_out(self.layout, size, 1 if self.kind is OutputKind.LABELS else classes)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of the output."""
        return np.dtype(self.label_type.value if self.kind is OutputKind.LABELS else np.float32)


def laid_out(layout: str, size: tuple[int, int], channels: int) -> tuple[int, ...]:
    """The shape that a layout stands for: ``"nhwc"`` -> ``(1, H, W, channels)``."""
    sides = {"n": 1, "h": size[0], "w": size[1], "c": channels}
    return tuple(sides[axis] for axis in layout)
