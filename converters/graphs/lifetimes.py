"""What a graph needs of memory, from the lifetimes of its tensors."""

from __future__ import annotations

import functools
import math
from collections import Counter

import onnx_ir as ir

VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten"})
"""What runtimes do without a copy: the result shares its input's memory."""


def live_bytes(model: ir.Model) -> int:
    """Largest sum of tensors that are alive at once, for a first axis of one; weights not counted.

    A tensor lives from the node that makes it to the last one that reads it; inputs live throughout, because a
    caller holds them. A result may not take the place of an input in the same node.
    """
    uses: Counter[ir.Value] = Counter()
    for node in model.graph:
        uses.update(_root(value) for value in node.inputs if value is not None)
    for value in model.graph.outputs:
        uses[_root(value)] += 1
    live = sum(bytes_of(value) for value in model.graph.inputs)
    peak = live
    for node in model.graph:
        made = [value for value in node.outputs if _root(value) is value]
        live += sum(bytes_of(value) for value in made)
        peak = max(peak, live)
        for read in node.inputs:
            if read is None:
                continue
            root = _root(read)
            uses[root] -= 1
            if not uses[root] and root.producer() is not None:
                live -= bytes_of(root)
    return peak


def largest_tensor(model: ir.Model) -> int:
    """Elements of the largest tensor, for a first axis of one."""
    values = [*model.graph.inputs, *(value for node in model.graph for value in node.outputs)]
    return max(_elements(value) for value in values)


def _root(value: ir.Value) -> ir.Value:
    """The value whose memory this one has."""
    producer = value.producer()
    source = producer.inputs[0] if producer is not None and producer.op_type in VIEWS else None
    return value if source is None else _root(source)


def bytes_of(value: ir.Value) -> int:
    """Size of a tensor for a first axis of one. Raises ``ValueError`` where its type or shape is unknown."""
    if value.dtype is None:
        raise ValueError(f"the type of {value.name} is unknown")
    return math.ceil(_elements(value) * value.dtype.itemsize)


def _elements(value: ir.Value) -> int:
    if value.shape is None:
        raise ValueError(f"the shape of {value.name} is unknown")
    return math.prod(extents_of(value.shape))


def extents_of(shape: ir.Shape) -> tuple[int, ...]:
    """A shape for a first axis of one: ``(64*phases, 3, 8, 8)`` is ``(64, 3, 8, 8)``."""
    return tuple(size if isinstance(size, int) else _extent(str(size.value)) for size in shape)


@functools.cache
def _extent(name: str) -> int:
    """A named size where every name in it is one."""
    size = ir.SymbolicDim(name)
    extent = size.evaluate(dict.fromkeys(size.free_symbols(), 1))
    assert isinstance(extent, int), "nothing in it is left open"
    return extent
