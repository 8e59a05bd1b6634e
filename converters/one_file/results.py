"""From the predictions of all phases to the frame's: the merge, as Reshape and Transpose, and the host's layout.

With ``g, f`` the window that the cuts stand for, ``k, m`` that of the inner offsets and ``i, j`` the predictions of a
phase::

    '(k m) (g f) ... i j -> ... (i k g) (j m f)'

The row of a phase in the full grid is ``row + g * down``: hence ``k`` before ``g``.
"""

from __future__ import annotations

import onnx_ir as ir

from converters.one_file.forms import OutputForm
from converters.one_file.nodes import FLOAT, INT32, INT64, UINT8, Nodes, typed
from converters.one_file.walk import Walk
from engines.bundle.manifest import OutputKind

_TYPES = {"uint8": UINT8, "int32": INT32, "int64": INT64, "float32": FLOAT}


def result_of(nodes: Nodes, stack: ir.Value, walk: Walk, form: OutputForm, classes: int) -> ir.Value:
    """The output of the file, from predictions ``(trips, sub-batch, ..., i, j)``."""
    maps = [] if form.kind is OutputKind.LABELS else [classes]
    merged = _merged(nodes, stack, walk, maps)
    grid, size = walk.grid, walk.grid.frame_size
    if size != grid.padded_size:
        merged = _slice(nodes, merged, len(maps), list(size), "merge/Crop")
    result = _in_layout(nodes, merged, form, size, classes)
    dtype = _TYPES[form.dtype.name]
    if dtype is UINT8:
        # TensorRT casts to uint8 from float alone.
        result = nodes.cast(nodes.cast(result, FLOAT, "output/Float"), UINT8, "output/Cast")
    elif dtype is INT64:
        result = nodes.cast(result, INT64, "output/Cast")
    result.name = nodes.names.value(form.kind.value)
    return typed(result, dtype, form.shape(size, classes))


def _merged(nodes: Nodes, stack: ir.Value, walk: Walk, maps: list[int]) -> ir.Value:
    """``(..., *padded_size)``."""
    (g, f), (k, m), (i, j) = walk.grid.cut_window, walk.inner, walk.grid.phase_size
    computed = walk.sharing * walk.sub_batch
    if computed > g * f:
        # What the last sub-batches computed again.
        stack = _reshape(nodes, stack, [k * m, computed, *maps, i, j], "merge/Computed")
        stack = _slice(nodes, stack, 1, [g * f], "merge/Once")
    stack = _reshape(nodes, stack, [k, m, g, f, *maps, i, j], "merge/Phases")
    n = len(maps)
    order = [*range(4, 4 + n), 4 + n, 0, 2, 5 + n, 1, 3]
    turned = nodes.add("Transpose", [stack], "merge/Transpose", perm=order)
    return _reshape(nodes, turned, [*maps, i * k * g, j * m * f], "merge/Merged")


def _in_layout(nodes: Nodes, merged: ir.Value, form: OutputForm, size: tuple[int, int], classes: int) -> ir.Value:
    if form.layout.endswith("c") and form.kind is not OutputKind.LABELS:
        merged = nodes.add("Transpose", [merged], "output/Transpose", perm=[1, 2, 0])
    if form.layout in ("hw", "chw", "hwc") and (form.layout == "hw") == (form.kind is OutputKind.LABELS):
        return merged
    return _reshape(nodes, merged, list(form.shape(size, classes)), "output/Reshape")


def _reshape(nodes: Nodes, value: ir.Value, shape: list[int], name: str) -> ir.Value:
    return nodes.add("Reshape", [value, nodes.constant(f"{name}/shape", shape)], name)


def _slice(nodes: Nodes, value: ir.Value, first: int, ends: list[int], name: str) -> ir.Value:
    """The beginning of one axis, or of several that follow each other from ``first`` on."""
    constants = (
        nodes.constant(f"{name}/starts", [0] * len(ends)),
        nodes.constant(f"{name}/ends", ends),
        nodes.constant(f"{name}/axes", [first + index for index in range(len(ends))]),
    )
    return nodes.add("Slice", [value, *constants], name)
