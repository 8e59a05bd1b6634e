"""The trunk inside a packed file: as the body of an ONNX ``Loop``, or once for each sub-batch.

What was measured decides the form (docs/one-file.md). Weights are initializers of the loop's body: from the outer graph
ONNX Runtime neither prepacks nor fuses them. Windows are cut by ``Gather`` on rows and on columns: TensorRT parses a
``Slice`` with computed starts, and then its builder fails. The loop has a trip count and no condition, with which
TensorRT adds a second recurrence. Labels leave the trunk as int32, since TensorRT has no uint8 inside a network.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from converters.one_file.copying import copied
from converters.one_file.forms import LoopForm
from converters.one_file.nodes import BOOL, FLOAT, INT32, INT64, UINT8, Nodes, typed
from converters.one_file.walk import Walk
from engines.bundle.manifest import OutputKind
from engines.errors import BundleError, InputError

MOST_COPIES = 16
"""Of the trunk in a file without a loop: 256 have 20,000 nodes, which TensorRT does not build in minutes."""


def predictions_of(
    nodes: Nodes, loop: LoopForm, planes: ir.Value, trunk: ir.Model, walk: Walk, kind: OutputKind
) -> ir.Value:
    """All predictions, ``(trips, sub-batch, ..., i, j)``: labels int32, or float32 with an axis of classes.

    Raises :class:`InputError` for a walk of too many sub-batches without a loop, :class:`BundleError` for a trunk that
    this smp-deploy does not write.
    """
    if loop is LoopForm.LOOP:
        return _typed(_looped(nodes, planes, trunk, walk, kind), trunk, walk, kind, walk.trips)
    if walk.trips > MOST_COPIES:
        raise InputError(
            f'loop="unrolled" repeats the trunk for every sub-batch, at most {MOST_COPIES} times, and this schedule '
            f"has {walk.trips} of them: take fewer levels=, a larger sub_batch=, or the loop"
        )
    return _typed(_unrolled(nodes, planes, trunk, walk, kind), trunk, walk, kind, walk.trips)


def _looped(nodes: Nodes, planes: ir.Value, trunk: ir.Model, walk: Walk, kind: OutputKind) -> ir.Value:
    body, origins = Nodes(nodes.names), walk.origins()
    iteration = typed(ir.val(nodes.names.value("loop/iteration")), INT64, ())
    condition = typed(ir.val(nodes.names.value("loop/condition")), BOOL, ())

    def of_iteration(table: np.ndarray, name: str) -> ir.Value:
        """The row of a table."""
        return body.add("Gather", [body.constant(f"{name}/table", table), iteration], name, axis=0)

    def places(axis: int, name: str) -> list[ir.Value]:
        """The rows, or the columns, of the window of each phase of the iteration."""
        steps = body.constant(f"loop/{name}/steps", np.arange(walk.grid.crop_size[axis], dtype=np.int64))
        starts = (of_iteration(origins[:, index, axis], f"loop/{name}_{index}") for index in range(walk.sub_batch))
        return [body.add("Add", [start, steps], f"{start.name}/Add") for start in starts]

    windows = _windows(body, planes, places(0, "row"), places(1, "column"), "loop/")
    offsets = of_iteration(walk.offsets(), "loop/offsets") if walk.grid.inner_windows else None
    result = _result(body, trunk, windows, offsets, kind, {}, "")
    _typed(result, trunk, walk, kind)
    # The body says itself that it goes on, and the trip count ends it.
    go_on = typed(body.add("Constant", [], "loop/go_on", value=ir.tensor(np.array(True))), BOOL, ())
    graph = body.graph("sub_batch", [iteration, condition], [go_on, result])
    trips = nodes.constant("loop/trips", np.array(walk.trips, np.int64))
    return nodes.add("Loop", [trips, None], "loop/Loop", body=graph)


def _unrolled(nodes: Nodes, planes: ir.Value, trunk: ir.Model, walk: Walk, kind: OutputKind) -> ir.Value:
    shared: dict[ir.Value, ir.Value] = {}
    known: dict[tuple[int, int], ir.Value] = {}
    results = []

    def place(axis: int, start: int) -> ir.Value:
        """The rows, or the columns, of a window that begins there."""
        if (axis, start) not in known:
            steps = np.arange(walk.grid.crop_size[axis], dtype=np.int64) + start
            known[axis, start] = nodes.constant(f"windows/{('row', 'column')[axis]}_{start}", steps)
        return known[axis, start]

    axis = nodes.constant("windows/stacked/axes", [0])
    for index, origins in enumerate(walk.origins()):
        prefix = f"sub_batch_{index}/"
        rows, columns = ([place(side, int(origin[side])) for origin in origins] for side in (0, 1))
        windows = _windows(nodes, planes, rows, columns, prefix)
        offsets = nodes.constant(f"{prefix}offsets", walk.offsets()[index]) if walk.grid.inner_windows else None
        result = _result(nodes, trunk, windows, offsets, kind, shared, prefix)
        results.append(nodes.add("Unsqueeze", [result, axis], f"{prefix}stacked"))
    return nodes.add("Concat", results, "windows/stacked", axis=0)


def _windows(nodes: Nodes, planes: ir.Value, rows: list[ir.Value], columns: list[ir.Value], prefix: str) -> ir.Value:
    """``(sub-batch, 3, H', W')`` of the planes."""
    axes = nodes.constant(f"{prefix}window/axes", [0])
    single = []
    for row, column in zip(rows, columns, strict=True):
        band = nodes.add("Gather", [planes, row], f"{prefix}band", axis=1)
        window = nodes.add("Gather", [band, column], f"{prefix}window", axis=2)
        single.append(nodes.add("Unsqueeze", [window, axes], f"{prefix}window/Unsqueeze"))
    return single[0] if len(single) == 1 else nodes.add("Concat", single, f"{prefix}windows", axis=0)


def _result(
    nodes: Nodes,
    trunk: ir.Model,
    windows: ir.Value,
    offsets: ir.Value | None,
    kind: OutputKind,
    shared: dict[ir.Value, ir.Value],
    prefix: str,
) -> ir.Value:
    """What the trunk gives for windows: a copy of its nodes; weights that are ``shared`` already are not copied."""
    taken = [windows] if offsets is None else [windows, offsets]
    if len(trunk.graph.inputs) != len(taken):
        names = ", ".join(str(value.name) for value in trunk.graph.inputs)
        raise BundleError(f"the trunk takes {names}, which its levels do not give; export the bundle again")
    given = dict(zip(trunk.graph.inputs, taken, strict=True))
    last, part = trunk.graph.outputs[0].producer(), list(trunk.graph)
    if kind is not OutputKind.LABELS:
        return copied(nodes, part, given, trunk.graph.outputs[0], shared, prefix)
    if last is None or last.op_type != "Cast" or last.attributes["to"].as_int() != UINT8.value:
        raise BundleError("the trunk does not end in a cast of its labels to uint8; export the bundle again")
    labels = last.inputs[0]
    assert labels is not None
    result = copied(nodes, [node for node in part if node is not last], given, labels, shared, prefix)
    return nodes.cast(result, INT32, f"{prefix}labels")


def _typed(value: ir.Value, trunk: ir.Model, walk: Walk, kind: OutputKind, *outer: int) -> ir.Value:
    """Predictions with their type and shape, which no inference finds behind a loop."""
    shape = trunk.graph.outputs[0].shape
    assert shape is not None
    labels = kind is OutputKind.LABELS
    classes = () if labels else (int(str(shape[1])),)
    return typed(value, INT32 if labels else FLOAT, (*outer, walk.sub_batch, *classes, *walk.grid.phase_size))
