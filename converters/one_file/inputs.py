"""From what a host gives to the planes that windows are cut from: ``prepare.onnx``, and what stands before it.

The bundle's own nodes normalise and pad, so there is one normalisation. For a frame in another form only the
rearrangement before them differs, and for one that is normalised already they are left out.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from converters.one_file.copying import copied
from converters.one_file.forms import ColorOrder, InputForm, InputKind
from converters.one_file.nodes import FLOAT, UINT8, Nodes, typed
from converters.one_file.nv12 import pixels_from_nv12
from engines.errors import BundleError

_CHAIN = ("Cast", "Transpose", "Mul", "Add", "Pad")
"""What ``prepare.onnx`` does; nothing is padded where a network needs no zeros around its frame."""


def planes_from_input(
    nodes: Nodes, form: InputForm, size: tuple[int, int], prepare: ir.Model
) -> tuple[list[ir.Value], ir.Value]:
    """The inputs of the file, and the prepared planes ``(3, *planes_size)`` float32 that are computed from them.

    Raises :class:`BundleError` for a ``prepare.onnx`` that does something else than this smp-deploy writes.
    """
    chain = list(prepare.graph)
    if tuple(node.op_type for node in chain) not in (_CHAIN, _CHAIN[:-1]):
        found = ", ".join(node.op_type for node in chain)
        raise BundleError(f"prepare.onnx does {found}, and not {', '.join(_CHAIN)}; export the bundle again")
    inputs = [
        typed(ir.val(nodes.names.value(name)), UINT8 if form.dtype == np.uint8 else FLOAT, shape)
        for name, shape in form.shapes(size).items()
    ]
    if form.kind is InputKind.NV12:
        luma, chroma = inputs
        pixels = pixels_from_nv12(nodes, form, luma, chroma, size)
    else:
        pixels = _planes(nodes, form, inputs[0])
    if form.kind is InputKind.SCALED:
        pixels = _unscaled(nodes, form, pixels)
    rest = chain[4:] if form.kind is InputKind.NORMALIZED else chain[2:]
    if not rest:
        return inputs, pixels
    taken = rest[0].inputs[0]
    assert taken is not None
    return inputs, copied(nodes, rest, {taken: pixels}, prepare.graph.outputs[0], {})


def _planes(nodes: Nodes, form: InputForm, frame: ir.Value) -> ir.Value:
    """``(3, H, W)`` float32, R, G and B, from a frame in its layout."""
    # Cast before the transpose: TensorRT permutes no uint8.
    planes = nodes.cast(frame, FLOAT, "input/Cast") if form.dtype == np.uint8 else frame
    if "n" in form.layout:
        planes = nodes.add("Squeeze", [planes, nodes.constant("input/Squeeze/axes", [0])], "input/Squeeze")
    if form.layout.endswith("c"):
        planes = nodes.add("Transpose", [planes], "input/Transpose", perm=[2, 0, 1])
    if form.color is ColorOrder.BGR:
        planes = nodes.add("Gather", [planes, nodes.constant("input/Gather/order", [2, 1, 0])], "input/Gather", axis=0)
    return planes


def _unscaled(nodes: Nodes, form: InputForm, planes: ir.Value) -> ir.Value:
    """Pixels in [0, 255] from ``scale * (pixels - mean)``."""
    if form.scale != 1:
        factor = np.array(1 / form.scale, np.float32)
        planes = nodes.add("Mul", [planes, nodes.constant("input/Mul/factor", factor)], "input/Mul")
    if any(form.mean):
        mean = form.mean if form.color is ColorOrder.RGB else form.mean[::-1]
        held = nodes.constant("input/Add/mean", np.array(mean, np.float32).reshape(3, 1, 1))
        planes = nodes.add("Add", [planes, held], "input/Add")
    return planes
