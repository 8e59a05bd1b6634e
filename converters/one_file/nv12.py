"""NV12 to R, G and B: luma, and chroma that stands for 2x2 pixels each.

With ``Kr`` and ``Kb`` of the matrix, ``Kg = 1 - Kr - Kb``, and luma ``y``, chroma ``u, v`` brought to [0, 255] and
[-127.5, 127.5] first, which the limited range needs::

    R = y + 2 (1 - Kr) v
    G = y - 2 Kb (1 - Kb) / Kg u - 2 Kr (1 - Kr) / Kg v
    B = y + 2 (1 - Kb) u

Rounded and clipped to whole numbers in [0, 255], as a conversion to uint8 gives them. Chroma is repeated over its 2x2
pixels, with no interpolation: exact for chroma that is sited in the middle of them and taken by the nearest sample.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.one_file.forms import InputForm, YuvMatrix, YuvRange
from converters.one_file.nodes import FLOAT, Nodes

_FACTORS = {YuvMatrix.BT601: (0.299, 0.114), YuvMatrix.BT709: (0.2126, 0.0722)}
"""``Kr, Kb``."""
_LUMA = {YuvRange.LIMITED: (16.0, 255 / 219), YuvRange.FULL: (0.0, 1.0)}
"""What is taken off, and what the rest is multiplied by."""
_CHROMA = {YuvRange.LIMITED: 255 / 224, YuvRange.FULL: 1.0}


def shares_of_chroma(form: InputForm) -> NDArray[np.float32]:
    """``(2, 3)``: what U and V, less 128, add to R, G and B."""
    kr, kb = _FACTORS[form.matrix]
    kg = 1 - kr - kb
    u = (0.0, -2 * kb * (1 - kb) / kg, 2 * (1 - kb))
    v = (2 * (1 - kr), -2 * kr * (1 - kr) / kg, 0.0)
    return (np.array([u, v]) * _CHROMA[form.range]).astype(np.float32)


def luma_of(form: InputForm) -> tuple[np.float32, np.float32]:
    """What is taken off luma, and what the rest is multiplied by."""
    black, scale = _LUMA[form.range]
    return np.float32(black), np.float32(scale)


def pixels_from_nv12(
    nodes: Nodes, form: InputForm, luma: ir.Value, chroma: ir.Value, size: tuple[int, int]
) -> ir.Value:
    """Planes ``(3, H, W)`` float32 of whole numbers in [0, 255]: R, G and B."""
    (height, width), (black, scale) = size, luma_of(form)

    def number(name: str, value: float | np.float32) -> ir.Value:
        return nodes.constant(f"input/{name}", np.array(value, np.float32))

    # Cast before anything moves: TensorRT has no uint8 inside.
    above = nodes.add("Sub", [nodes.cast(luma, FLOAT, "input/Luma"), number("black", black)], "input/Above")
    bright = nodes.add("Mul", [above, number("scale", scale)], "input/Brightness")
    centred = nodes.add("Sub", [nodes.cast(chroma, FLOAT, "input/Chroma"), number("grey", 128.0)], "input/Centred")
    halves = [
        nodes.add("Gather", [centred, nodes.constant(f"input/{name}/place", np.array(place))], f"input/{name}", axis=2)
        for place, name in enumerate("UV")
    ]
    parts = [
        nodes.add("Mul", [half, nodes.constant(f"input/{name}/shares", shares.reshape(3, 1, 1))], f"input/Of{name}")
        for half, name, shares in zip(halves, "UV", shares_of_chroma(form), strict=True)
    ]
    small = nodes.add("Add", parts, "input/Tint")
    half = [3, height // 2, 1, width // 2, 1]
    apart = nodes.add("Reshape", [small, nodes.constant("input/Apart/shape", half)], "input/Apart")
    wide = [3, height // 2, 2, width // 2, 2]
    repeated = nodes.add("Expand", [apart, nodes.constant("input/Repeated/shape", wide)], "input/Repeated")
    tint = nodes.add("Reshape", [repeated, nodes.constant("input/Whole/shape", [3, height, width])], "input/Whole")
    whole = nodes.add("Round", [nodes.add("Add", [tint, bright], "input/Pixels")], "input/Round")
    return nodes.add("Clip", [whole, number("least", 0.0), number("most", 255.0)], "input/Clip")
