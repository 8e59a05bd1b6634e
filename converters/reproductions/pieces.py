"""The smallest piece of a graph that still fails: cut out, run alone, and compared with what it should give."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.graphs.layers import names_of_nodes
from converters.graphs.rounding import write_rounding
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.errors import BackendError
from engines.schedules.schedule import Precision

Tensors: TypeAlias = Mapping[str, NDArray[np.generic]]
"""By name of the graph that is suspected."""

Weights: TypeAlias = Mapping[tuple[str, int], NDArray[np.generic]]
"""By name of a node and place among its inputs."""

Again: TypeAlias = Callable[["Piece", Weights], NDArray[np.float32] | None]
"""What a piece should give with other weights, for the same inputs; ``None`` where nobody can say."""

OUTPUT = "output"
"""The name of what a piece gives."""


@dataclass(frozen=True, eq=False)
class Known:
    """What the tensors of a graph should be, for one feed of it."""

    right: dict[str, NDArray[np.float32]]
    """By tensor, in the layout of the graph."""
    own: Tensors
    """What the graph gave, of the same tensors at least, in its own types."""
    feed: Tensors
    again: Again


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a graph as a model of its own."""

    model: ir.Model
    """Its weights are in it; its inputs are called as the tensors of the graph, its output :data:`OUTPUT`."""
    precision: Precision
    inputs: Tensors
    expected: NDArray[np.float32]
    actual: NDArray[np.float32]
    """What ONNX Runtime gives."""
    bound: float
    """How large :attr:`error` may be."""
    nodes: tuple[str, ...]
    """The names that people know its nodes by, in order."""
    output: str
    """The tensor of the graph that it computes."""
    again: Again
    """What it should give with other weights."""

    @property
    def error(self) -> float:
        """Largest absolute error, relative to the largest expected value."""
        return error_of(self.actual, self.expected)

    @property
    def fails(self) -> bool:
        """Whether what it gives is further off than it may be; what is not finite is."""
        return not self.error <= self.bound


def error_of(actual: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    """Largest absolute error relative to the largest expected value; infinite for another shape, or not finite."""
    given, wanted = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if given.shape != wanted.shape or not np.isfinite(given).all():
        return float("inf")
    scale = float(np.abs(wanted).max(initial=0.0))
    return float(np.abs(given - wanted).max(initial=0.0)) / (scale or 1.0)


def smallest_piece(model: ir.Model, precision: Precision, known: Known, bound: float) -> Piece | None:
    """The piece that ends at the first tensor that is wrong and fails from right inputs; ``None`` if none is wrong.

    It begins at the nearest tensors that are known. Where it is right from there, as when many layers each lose a
    little, it grows backwards, known tensor by known tensor, until it fails: the whole graph up to there does.

    Raises :class:`BackendError` for what ONNX Runtime cannot run.
    """
    values = ir.convenience.create_value_mapping(model.graph)
    for node in model.graph:
        for value in node.outputs:
            name = str(value.name)
            if name not in known.right or error_of(known.own[name], known.right[name]) <= bound:
                continue
            passed: set[str] = set()
            while True:
                inputs = _inputs_of(value, set(known.right) - passed - {name})
                given = {held: _as(values[held], known.right.get(held, known.feed.get(held))) for held in inputs}
                piece = piece_of(model, precision, given, value, known.right[name], bound, known.again)
                grown = set(inputs) & set(known.right)
                if piece.fails or not grown:
                    return piece
                passed |= grown
    return None


def piece_of(
    model: ir.Model,
    precision: Precision,
    inputs: Tensors,
    output: ir.Value,
    expected: NDArray[np.float32],
    bound: float,
    again: Again,
) -> Piece:
    """The nodes between ``inputs`` and ``output``, run alone. Raises :class:`BackendError`."""
    alone = part_between(model.clone(), inputs, str(output.name))
    for value in alone.graph.initializers.values():
        tensor = value.const_value
        # The weights go with it: a file of its own.
        value.const_value = None if tensor is None else ir.tensor(tensor.numpy().copy(), name=value.name)
    alone.graph.outputs[0].shape = ir.Shape(expected.shape)
    labels = names_of_nodes(alone)
    piece = Piece(
        alone,
        precision,
        dict(inputs),
        np.asarray(expected, np.float32),
        expected,
        bound,
        tuple(labels.values()),
        str(output.name),
        again,
    )
    return replace(piece, actual=run_of(piece))


def part_between(model: ir.Model, inputs: Tensors, output: str) -> ir.Model:
    """The nodes between tensors as a model that gives :data:`OUTPUT`, for inputs of these shapes.

    Raises ``ValueError`` where something else than ``inputs`` is needed.
    """
    held = ir.convenience.create_value_mapping(model.graph)
    graph = ir.convenience.extract(model.graph, [held[name] for name in inputs], [held[output]])
    # What was inferred for the whole graph holds no longer.
    for node in graph:
        for value in node.outputs:
            value.shape = None
    for value in graph.inputs:
        value.shape = ir.Shape(inputs[str(value.name)].shape)
    graph.outputs[0].name = OUTPUT
    return ir.Model(graph, ir_version=model.ir_version)


def run_of(piece: Piece, *, rounded: bool = True) -> NDArray[np.float32]:
    """What ONNX Runtime gives for the inputs; ``rounded`` to half precision where that is what the piece computes in.

    Raises :class:`BackendError`.
    """
    model = piece.model.clone()
    if rounded:
        write_rounding(model)
    with OnnxRuntimeRunner(ir.to_proto(model).SerializeToString(), precision=piece.precision, arena=False) as runner:
        return np.asarray(runner.infer(dict(piece.inputs))[OUTPUT], np.float32)


def without_weights(piece: Piece, seed: int = 0) -> Piece | None:
    """The piece with random weights of the same mean and spread, if the fault survives that; else ``None``."""
    draw = np.random.default_rng(seed)
    model = piece.model.clone()
    made: dict[tuple[str, int], NDArray[np.generic]] = {}
    for node, label in names_of_nodes(model).items():
        for place, value in enumerate(node.inputs):
            tensor = value.const_value if value is not None and value.is_initializer() else None
            if value is None or tensor is None or tensor.size < 2 or not tensor.dtype.is_floating_point():
                continue
            held = tensor.numpy()
            wide = np.asarray(held, np.float64)
            random = (wide.mean() + wide.std() * draw.standard_normal(wide.shape)).astype(held.dtype)
            value.const_value = ir.tensor(random, name=value.name)
            made[label, place] = random
    changed = replace(piece, model=model)
    if not made:
        return changed
    try:
        expected = piece.again(changed, made)
        if expected is None:
            return None
        changed = replace(changed, expected=expected)
        changed = replace(changed, actual=run_of(changed))
    except BackendError:
        return None
    return changed if changed.fails else None


def _inputs_of(output: ir.Value, known: set[str]) -> list[str]:
    """The nearest tensors above a value that are known or given, in the order they are met."""
    found: dict[str, None] = {}
    producer = output.producer()
    pending = [] if producer is None else list(producer.inputs)
    seen = set()
    while pending:
        value = pending.pop(0)
        if value is None or value.is_initializer() or value in seen:
            continue
        seen.add(value)
        above = value.producer()
        if str(value.name) in known or above is None:
            found[str(value.name)] = None
        else:
            pending += above.inputs
    return list(found)


def _as(value: ir.Value, array: NDArray[np.generic] | None) -> NDArray[np.generic]:
    """An array in the type of a tensor of the graph."""
    assert array is not None, f"{value.name} is neither known nor given"
    return array if value.dtype is None else array.astype(value.dtype.numpy())


def file_stem(name: str) -> str:
    """A tensor's name as that of a file."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "tensor"
