"""The same graph for smaller frames, so that every phase, offset and sub-batch can be run within seconds.

A graph is written for one frame size. What depends on it are whole numbers: the shapes of Reshape, the rows and
columns that a Gather takes, the ends of a Slice. The shapes of all tensors are worked out twice, node by node, for the
size that is written and for the smaller one; where a constant stands between them, its value for the smaller size
follows from the other three. Weights, operators and everything that was added to the graph stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from converters.graphs.adding import added_constant
from engines.errors import LayoutError

Shape = tuple[int, ...]

_INDEX_OPERATORS = ("Add", "Reshape", "Identity", "Cast", "Unsqueeze", "Squeeze")
"""What may lie between the rows that a Gather takes and the constant that they come from."""

_MOST_INDICES = 2**20


class ResizingError(LayoutError):
    """A graph that depends on the size of its frame in a way that is not understood."""


def resize(model: ir.Model, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> None:
    """Make a model one for inputs of other shapes, in place.

    Args:
        model: with the shapes of its inputs; its weights need not be loaded.
        inputs: by name: the new shapes, with a batch of one.
        outputs: by name: what must come out.

    Raises :class:`ResizingError` where the graph is bound to its size by more than is understood here; then the model
    is of no use.
    """
    resizing = _Resizing(model, inputs)
    for node in list(model.graph):
        resizing.take(node)
    for value in model.graph.outputs:
        found, wanted = resizing.new.get(value), outputs[str(value.name)]
        if found is None or found.shape != wanted:
            raise ResizingError(f"{value.name} would be {found and found.shape}, and not {wanted}")
        value.shape = ir.Shape([size if axis else None for axis, size in enumerate(wanted)])
    for value in model.graph.inputs:
        shape = inputs[str(value.name)]
        # The batch stays open, as it is in the graph that was written.
        open_batch = value.shape is not None and not isinstance(value.shape[0], int)
        value.shape = ir.Shape([None if open_batch and not axis else size for axis, size in enumerate(shape)])


class _Tensor:
    """What is known of a tensor: its shape, its type, and its values where it is a constant of whole numbers."""

    def __init__(self, shape: Shape, dtype: ir.DataType, values: NDArray[Any] | None = None) -> None:
        self.shape, self.dtype, self.values = shape, dtype, values

    @property
    def type(self) -> onnx.TypeProto:
        return onnx.helper.make_tensor_type_proto(self.dtype.value, self.shape)


class _Resizing:
    """Both sizes of every tensor, as far as the nodes have been taken."""

    def __init__(self, model: ir.Model, inputs: Mapping[str, Shape]) -> None:
        self.graph = model.graph
        self.opsets = dict(model.opset_imports)
        self.old: dict[ir.Value, _Tensor] = {}
        self.new: dict[ir.Value, _Tensor] = {}
        for value in self.graph.initializers.values():
            self.old[value] = self.new[value] = _constant(value)
        for value in self.graph.inputs:
            if value.shape is None or value.dtype is None or str(value.name) not in inputs:
                raise ResizingError(f"{value.name} has no shape")
            written = tuple(size if isinstance(size, int) else 1 for size in value.shape)
            wanted = inputs[str(value.name)]
            self.old[value] = self.new[value] = _Tensor(written, value.dtype)
            if wanted != written:
                self.new[value] = _Tensor(wanted, value.dtype)

    def take(self, node: ir.Node) -> None:
        """Work out what a node gives in both sizes, with its constants for the smaller one."""
        if any(isinstance(held.value, ir.Graph) for held in node.attributes.values()):
            raise ResizingError(f"{node.name} has a graph inside")
        self._infer(node, self.old)
        if all(value is None or self.new[value] is self.old[value] for value in node.inputs):
            # Nothing of it depends on the size.
            self.new |= {value: self.old[value] for value in node.outputs}
            return
        if node.op_type == "Reshape":
            self._reshape(node)
        elif node.op_type == "Gather":
            self._gather(node)
        elif node.op_type == "Slice":
            self._slice(node)
        self._infer(node, self.new)
        for value in node.outputs:
            # What the size was is no longer true, and nothing below asks for it.
            value.shape = None

    def _infer(self, node: ir.Node, known: dict[ir.Value, _Tensor]) -> None:
        given = [(value, known[value]) for value in node.inputs if value is not None]
        schema = onnx.defs.get_schema(node.op_type, self.opsets[node.domain], node.domain)
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema,
                ir.serde.serialize_node(node),
                {str(value.name): held.type for value, held in given},
                {str(value.name): onnx.numpy_helper.from_array(held.values)
                 for value, held in given if held.values is not None},
                opset_imports=[onnx.helper.make_opsetid(*held) for held in self.opsets.items()],
            )  # fmt: skip
        except Exception as error:
            # Its exceptions share no base but Exception.
            raise ResizingError(f"{node.name} takes no other size ({str(error).splitlines()[0]})") from error
        for value in node.outputs:
            kind = found[str(value.name)].tensor_type if str(value.name) in found else None
            if (
                kind is None
                or not kind.HasField("shape")
                or any(not dim.HasField("dim_value") for dim in kind.shape.dim)
            ):
                raise ResizingError(f"the shape of {value.name} is computed")
            shape = tuple(dim.dim_value for dim in kind.shape.dim)
            known[value] = _Tensor(shape, ir.DataType(kind.elem_type))

    def _replace(self, node: ir.Node, index: int, values: NDArray[Any]) -> None:
        source = node.inputs[index]
        assert source is not None
        constant = added_constant(self.graph, f"{source.name}.resized", values)
        self.old[constant] = self.old[source]
        self.new[constant] = _Tensor(values.shape, self.old[source].dtype, values)
        node.replace_input_with(index, constant)

    def _reshape(self, node: ir.Node) -> None:
        source, target = node.inputs[0], node.inputs[1]
        assert source is not None
        assert target is not None
        before, after, given = self.old[source].shape, self.new[source].shape, self.old[target].values
        if before == after:
            return
        if given is None:
            raise ResizingError(f"{node.name} computes its shape")
        made = _reshaped(before, after, self.old[node.outputs[0]].shape)
        if made is None:
            raise ResizingError(f"{node.name} takes {before} apart in a way that fits no {after}")
        # What the graph leaves to the runtime, as the size of the batch, is left to it here too.
        left = [int(size) if size in (0, -1) else wanted for size, wanted in zip(given.tolist(), made, strict=True)]
        self._replace(node, 1, np.array(left, np.int64))

    def _gather(self, node: ir.Node) -> None:
        source, indices = node.inputs[0], node.inputs[1]
        assert source is not None
        assert indices is not None
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
        before, after = self.old[source].shape[axis], self.new[source].shape[axis]
        if before == after or not self.old[indices].shape:
            return
        path: list[ir.Node] = []
        reader, place, value = node, 1, indices
        while not (value.is_initializer() and value.shape is not None and len(value.shape) == 1):
            producer = value.producer()
            if producer is None or producer.op_type not in _INDEX_OPERATORS:
                raise ResizingError(f"{node.name} computes what it takes")
            path.append(producer)
            vectors = [
                (index, held) for index, held in enumerate(producer.inputs) if held is not None and self.old[held].shape
            ]
            if not vectors:
                raise ResizingError(f"{node.name} computes what it takes")
            place, value = vectors[0]
            reader = producer
        held = self.old[value].values
        steps = np.diff(held) if held is not None else np.zeros(0)
        if held is None or not held.size or held.min() < 0 or (steps.size and (steps != steps[0]).any()):
            raise ResizingError(f"{node.name} takes rows in no order")
        step = int(steps[0]) if steps.size else before
        slack = before - 1 - int(held[-1])
        count = (after - 1 - slack - int(held[0])) // step + 1 if step > 0 else 0
        if count < 1:
            raise ResizingError(f"{node.name} takes more than there is")
        self._replace(reader, place, (held[0] + step * np.arange(count)).astype(held.dtype))
        for producer in reversed(path):
            self._infer(producer, self.new)
            producer.outputs[0].shape = None

    def _slice(self, node: ir.Node) -> None:
        source = node.inputs[0]
        assert source is not None
        before, after = self.old[source].shape, self.new[source].shape
        ends = node.inputs[2]
        assert ends is not None
        values = self.old[ends].values
        axes = self.old[node.inputs[3]].values if len(node.inputs) > 3 and node.inputs[3] is not None else None
        if values is None or before == after:
            return
        changed = values.copy()
        for index, axis in enumerate(range(len(values)) if axes is None else axes.tolist()):
            if before[axis] != after[axis] and 0 <= values[index] < before[axis]:
                changed[index] = after[axis] - (before[axis] - values[index])
        if (changed != values).any():
            self._replace(node, 2, changed)


def _constant(value: ir.Value) -> _Tensor:
    held = value.const_value
    if held is None:
        raise ResizingError(f"{value.name} has no value")
    shape = tuple(size if isinstance(size, int) else 1 for size in held.shape)
    whole = held.dtype in (ir.DataType.INT64, ir.DataType.INT32) and math.prod(shape) <= _MOST_INDICES
    return _Tensor(shape, held.dtype, held.numpy() if whole else None)


def _reshaped(before: Shape, after: Shape, target: Shape) -> Shape | None:
    """What ``target``, to which ``before`` is reshaped, is for ``after``; ``None`` where that cannot be told.

    Runs of axes with the same product belong together. Where one axis is taken apart, the part that counts places of
    the map is the outer one: ``(i h) -> i h``.
    """
    made: list[int] = []
    first = start = 0
    while first < len(before) or start < len(target):
        last, end = first + 1, start + 1
        while math.prod(before[first:last]) != math.prod(target[start:end]):
            if last >= len(before) and end >= len(target):
                return None
            smaller = math.prod(before[first:last]) < math.prod(target[start:end])
            if (smaller and last < len(before)) or end >= len(target):
                last += 1
            else:
                end += 1
        made += _parts(math.prod(before[first:last]), math.prod(after[first:last]), target[start:end])
        first, start = last, end
    result = tuple(made)
    return result if math.prod(result) == math.prod(after) else None


def _parts(before: int, after: int, target: Sequence[int]) -> list[int]:
    """Axes whose product was ``before`` and must be ``after``: one of them changes, the outermost that can."""
    for index, size in enumerate(target):
        if size * after % before == 0 and size * after:
            return [*target[:index], size * after // before, *target[index + 1 :]]
    return list(target)
