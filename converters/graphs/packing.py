"""What ONNX Runtime holds for the tensors of a graph on an x86-64 CPU.

From the second run on, ONNX Runtime lays all tensors of a run out in one block, in the order in which it computes
them, each in the smallest gap that it fits into. That block is larger than the largest sum of living tensors, and its
tensors are not quite those of the graph:

- convolutions take over the activation behind them, and a sum, which they add to in its place;
- their tensors have another layout, with channels together in blocks. Between it and the plain one stand copies;
- an operator that works element by element takes the place of an input that is not read again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from converters.graphs.lifetimes import VIEWS, bytes_of


@dataclass(frozen=True)
class Layout:
    """The layout of a runtime's convolutions, where it is not that of the graph."""

    block: int
    """Channels that lie together; the last block is filled up."""
    few: int
    """A convolution of fewer channels reads the plain layout."""
    fuses: bool
    """Whether a convolution takes over the sum and the activation behind it."""


BLOCKS = Layout(block=16, few=8, fuses=True)
"""On x86-64; 8 lie together where the processor has no AVX-512."""

_ACTIVATIONS = frozenset({"Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})

_IN_PLACE = _ACTIVATIONS | {"Add", "Div", "Mul", "Softmax", "Sub"}


@dataclass(eq=False)
class Tensor:
    """Memory of its own: of a value, or of its copy in the other layout."""

    size: int
    packed: bool = True
    """Inputs and outputs of the graph are not: the caller holds them."""


@dataclass(frozen=True)
class _Step:
    """What is computed at once."""

    made: list[Tensor]
    read: list[Tensor]
    may_replace: list[Tensor]
    """What the first result may take the place of, if no later step reads it."""


def packed_bytes(model: ir.Model, *, optimized: bool = True) -> int:
    """Size of the block of a run's tensors, for a first axis of one; inputs, outputs and weights not counted.

    ``optimized`` says whether ONNX Runtime may fuse operators and change layouts.
    """
    block = _Block()
    hold(model, BLOCKS if optimized else None, block)
    return block.size


class Memory(Protocol):
    """Where the tensors of a run are held."""

    def add(self, tensor: Tensor) -> None:
        """Find a place for it."""

    def remove(self, tensor: Tensor) -> None:
        """Leave its place free; nothing happens where it has none."""


def hold(model: ir.Model, layout: Layout | None, block: Memory) -> None:
    """Put the tensors of a run into memory and take them out, one step after the other; a first axis is one."""
    steps = _Steps(model, layout).found
    uses = Counter(tensor for step in steps for tensor in step.read)
    place: dict[Tensor, Tensor] = {}
    for step in steps:
        read = [place.get(tensor, tensor) for tensor in step.read]
        for index, made in enumerate(step.made):
            held = [place.get(tensor, tensor) for tensor in step.may_replace if not index]
            taken = next((t for t in held if t.packed and t.size == made.size and uses[t] == 1), None)
            if not made.packed:
                continue
            if taken is None:
                block.add(made)
            else:
                place[made] = taken
                uses[taken] += uses[made]
        uses.subtract(read)
        for tensor in {*read, *step.made}:
            if not uses[place.get(tensor, tensor)]:
                block.remove(place.get(tensor, tensor))


class _Block:
    """Memory that tensors are put into and taken out of, each at the smallest gap."""

    def __init__(self) -> None:
        self.size = 0
        self._held: list[tuple[int, Tensor]] = []
        """By offset."""

    def add(self, tensor: Tensor) -> None:
        """Put it into the smallest gap that it fits into, else behind the last one."""
        gaps, end = [], 0
        for offset, held in self._held:
            gaps.append((offset - end, end))
            end = offset + held.size
        fitting = [(gap, start) for gap, start in gaps if gap >= tensor.size]
        start = min(fitting)[1] if fitting else end
        self._held = sorted([*self._held, (start, tensor)], key=lambda entry: entry[0])
        self.size = max(self.size, start + tensor.size)

    def remove(self, tensor: Tensor) -> None:
        """Leave its place free; nothing happens where it has none."""
        self._held = [entry for entry in self._held if entry[1] is not tensor]


class _Steps:
    """The steps of a graph, fused and in two layouts, or as they are written."""

    def __init__(self, model: ir.Model, layout: Layout | None) -> None:
        self._layout = layout or Layout(1, 0, fuses=False)
        self.found: list[_Step] = []
        self._outputs = set(model.graph.outputs)
        self._plain: dict[ir.Value, Tensor] = {v: Tensor(bytes_of(v), packed=False) for v in model.graph.inputs}
        self._blocked: dict[ir.Value, Tensor] = {}
        nodes = list(model.graph)
        self._in_blocks = _values_in_blocks(nodes, layout.block) if layout else set()
        summed, activated = self._fused(nodes) if self._layout.fuses else ({}, {})
        later = set(summed.values())
        for node in nodes:
            if node in later or node in activated.values():
                continue
            convolution = summed.get(node, node)
            result = activated.get(node, node).outputs[0]
            if self._is_convolution(convolution):
                self._convolution(convolution, result, node if convolution is not node else None)
            else:
                self._other(node, result)

    def _fused(self, nodes: list[ir.Node]) -> tuple[dict[ir.Node, ir.Node], dict[ir.Node, ir.Node]]:
        """By sum the convolution that adds to it, and by convolution or such a sum the activation that it applies."""
        summed: dict[ir.Node, ir.Node] = {}
        activated: dict[ir.Node, ir.Node] = {}
        for node in nodes:
            if node.op_type == "Add" and node.outputs[0] in self._in_blocks:
                terms = [producer for value in node.inputs if value is not None and (producer := value.producer())]
                alone = [term for term in terms if self._is_convolution(term) and self._leads_to(term, node)]
                if alone:
                    summed[node] = alone[0]
        for node in nodes:
            if node in summed or (self._is_convolution(node) and node not in summed.values()):
                readers = [user for user, _ in node.outputs[0].uses()]
                if readers and readers[0].op_type in _ACTIVATIONS and self._leads_to(node, readers[0]):
                    activated[node] = readers[0]
        return summed, activated

    def _is_convolution(self, node: ir.Node) -> bool:
        """Whether a node is a convolution in the layout of blocks."""
        return node.op_type == "Conv" and node.outputs[0] in self._in_blocks

    def _leads_to(self, node: ir.Node, reader: ir.Node) -> bool:
        """Whether a node has one result, and nothing else reads it."""
        (value, *more) = node.outputs
        return not more and value not in self._outputs and [user for user, _ in value.uses()] == [reader]

    def _convolution(self, node: ir.Node, result: ir.Value, total: ir.Node | None) -> None:
        """A convolution in the layout of blocks, which may add to the other term of a sum in its place."""
        first = node.inputs[0]
        assert first is not None
        read = [self._blocked_tensor(first) if _channels(first) >= self._layout.few else self._plain_tensor(first)]
        terms = [] if total is None else [v for v in total.inputs if v is not None and v.producer() is not node]
        added = [self._blocked_tensor(value) for value in terms]
        self._make_blocked(result, read + added, added)

    def _other(self, node: ir.Node, result: ir.Value) -> None:
        values = [value for value in node.inputs if value is not None and not value.is_initializer()]
        if node.op_type in VIEWS and values:
            # No memory of its own, and no copy: the layout of what it shows has to be the plain one.
            self._plain[result] = self._plain_tensor(values[0])
            return
        if result in self._in_blocks:
            read = [self._blocked_tensor(value) for value in values]
            self._make_blocked(result, read, read if node.op_type in _IN_PLACE else [])
            return
        read = [self._plain_tensor(value) for value in values]
        made = [self._made(value) for value in node.outputs]
        self._plain |= zip(node.outputs, made, strict=True)
        self.found.append(_Step(made, read, read if node.op_type in _IN_PLACE else []))

    def _make_blocked(self, result: ir.Value, read: list[Tensor], may_replace: list[Tensor]) -> None:
        tensor = Tensor(_bytes_in_blocks(result, self._layout.block))
        self._blocked[result] = tensor
        self.found.append(_Step([tensor], read, may_replace))
        # The plain copy follows at once where nothing reads the blocks; else it waits for its first reader.
        read_in_blocks = any(user.outputs[0] in self._in_blocks for user, _ in result.uses())
        if result in self._outputs or not read_in_blocks:
            self._plain_tensor(result)

    def _made(self, value: ir.Value) -> Tensor:
        return Tensor(bytes_of(value), packed=value not in self._outputs)

    def _plain_tensor(self, value: ir.Value) -> Tensor:
        """Of a value in the plain layout, copied where it is in the other one."""
        if value not in self._plain:
            self._plain[value] = self._made(value)
            self.found.append(_Step([self._plain[value]], [self._blocked[value]], []))
        return self._plain[value]

    def _blocked_tensor(self, value: ir.Value) -> Tensor:
        """Of a value in the layout of blocks, copied where it is in the plain one."""
        if value not in self._blocked:
            self._blocked[value] = Tensor(_bytes_in_blocks(value, self._layout.block))
            self.found.append(_Step([self._blocked[value]], [self._plain[value]], []))
        return self._blocked[value]


def _values_in_blocks(nodes: Iterable[ir.Node], block: int) -> set[ir.Value]:
    """Results of convolutions, of what works on them element by element, and of what joins their channels."""
    found: set[ir.Value] = set()
    for node in nodes:
        read = [value for value in node.inputs if value is not None]
        follows = node.op_type in (*_ACTIVATIONS, "Add") or _joins_blocks(node, block)
        if _has_blocks(node, block) or (follows and all(value in found for value in read)):
            found.add(node.outputs[0])
    return found


def _joins_blocks(node: ir.Node, block: int) -> bool:
    """Whether a node joins channels of tensors whose channels fill their blocks."""
    if node.op_type != "Concat" or node.attributes["axis"].as_int() != 1:
        return False
    return all(value is not None and _channels(value) % block == 0 for value in node.inputs)


def _has_blocks(node: ir.Node, block: int) -> bool:
    """Whether ONNX Runtime computes this node in blocks of channels: a 2-D convolution, whose groups fill them."""
    if node.op_type != "Conv" or node.inputs[0] is None or len(node.outputs[0].shape or ()) != 4:
        return False
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    read, made = _channels(node.inputs[0]), _channels(node.outputs[0])
    return group == 1 or ((group == read or read // group % block == 0) and made % block == 0)


def _bytes_in_blocks(value: ir.Value, block: int) -> int:
    """Size of a tensor whose last block of channels is filled up."""
    channels = _channels(value)
    return bytes_of(value) // channels * math.ceil(channels / block) * block


def _channels(value: ir.Value) -> int:
    assert value.shape is not None
    size = value.shape[1]
    assert isinstance(size, int)
    return size
