"""Each operator's own error: what it gives against what it should give for the very inputs that it had.

A graph in a lower precision runs once, and every result of arithmetic is kept. The fp32 graph is then cut at the same
places: each operator is given what the other graph computed before it, and the other graph's weights. So errors do not
add up, and what is left of one operator is a single rounding: half a step of the type that it gives, where summing in
another order adds next to nothing. What was put between two operators shows in the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.graphs.adding import added_constant
from converters.graphs.layers import matrix_products, names_of_nodes
from converters.verification.constants import LEVELS, Quantized, constant_of, input_scale_of, steps_of
from converters.verification.forms import FrameForm
from converters.verification.probes import ProbedGraph, probed
from converters.verification.runs import attempted
from converters.verification.subject import Subject, runnable
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.bundle.manifest import TrunkRecord
from engines.bundle.records import Check, Kind, Quantity
from engines.errors import BackendError
from engines.parity.checks import Question
from engines.schedules.schedule import Precision

Feed = dict[str, NDArray[np.generic]]

_ONE_ROUNDING = 0.5 + 2.0**-6
"""Steps. A product that lies next to the middle of two numbers may be rounded to either, depending on its last bits."""

_ORDER_OF_SUMS = 1e-5
"""Relative to the largest value: what another order of additions in single precision may change."""

_MOST_CUT_OFF = 0.05
"""Share of a layer's inputs that int8 may cut off. Calibration leaves a ten-thousandth of what it sees; other frames
are other."""


def own_error_checks(subject: Subject, form: FrameForm, planes: NDArray[np.float32]) -> Iterator[Check]:
    """Every trunk in every lower precision that runs here, on one phase of a frame of this form."""
    for trunk in subject.bundle.manifest.trunks:
        grid = form.grid(trunk)
        # One phase: what depends on the sub-batch is another check's.
        feed = grid.feed(planes, grid.sub_batches(1)[0])
        for precision in runnable(trunk)[1:]:
            yield _check(form, trunk, precision, feed)
            if precision is Precision.INT8:
                yield _saturation_check(form, trunk, feed)


def _check(form: FrameForm, trunk: TrunkRecord, precision: Precision, feed: Feed) -> Check:
    graph = trunk.graphs[precision]
    question = Question(
        kind=Kind.PRECISION,
        name=f"own error of each operator of {graph}",
        subject=f"generated frame of {form.size[0]}x{form.size[1]}",
        quantity=Quantity.OWN_ERROR,
        tolerance=_ONE_ROUNDING,
        graph=graph,
        precision=precision,
    )
    errors = attempted(partial(own_errors, form, trunk, precision, feed))
    if isinstance(errors, BackendError):
        return question.ended(errors)
    worst = max(errors, key=lambda name: errors[name], default="")
    check = question.measured(errors.get(worst, 0.0), f"{len(errors)} operators, the worst {worst}")
    if not check.failed:
        return check
    first = next(name for name, error in errors.items() if not error <= _ONE_ROUNDING)
    return check.located(f"{graph}: {first}, by {errors[first]:.3g} steps of its type")


def own_errors(form: FrameForm, trunk: TrunkRecord, precision: Precision, feed: Feed) -> dict[str, float]:
    """By operator, in the order of the graph: its largest own error, in steps of the type that it gives."""
    exact, lower = form.trunk(trunk, Precision.FP32), form.trunk(trunk, precision)
    output = form.bundle.manifest.outputs.value
    pairs = _pairs(exact, lower)
    logits = exact.logits(output), lower.logits(output)
    with lower.runner([*(pair.lower_tensor for pair in pairs.values()), logits[1]]) as runner:
        results = runner.infer(feed)
    given = {pair.tensor: probed(results, pair.lower_tensor) for pair in pairs.values()}
    model = exact.model.clone()
    wanted = dict.fromkeys([*given, logits[0]])
    _cut(model, pairs, list(wanted), {name: values.ndim for name, values in given.items()})
    shapes: Feed = {f"given:{name}": values for name, values in given.items()}
    content = ir.to_proto(model).SerializeToString()
    # As it is written: the casts that round are not to be optimized away.
    with OnnxRuntimeRunner(content, precision=Precision.INT8, weights=exact.path.parent) as runner:
        expected = runner.infer({**feed, **shapes})
    errors = {
        name: _in_steps(given[pair.tensor], expected[f"wanted:{pair.tensor}"], pair.dtype)
        for name, pair in pairs.items()
    }
    if logits[0] not in given:
        last = next(reversed(pairs.values())).dtype if pairs else ir.DataType.FLOAT
        errors["the logits"] = _in_steps(probed(results, logits[1]), expected[f"wanted:{logits[0]}"], last)
    return errors


@dataclass(frozen=True, eq=False)
class _Pair:
    """An operator of the fp32 graph and its counterpart."""

    tensor: str
    lower: ir.Node
    lower_tensor: str
    dtype: ir.DataType


def _pairs(exact: ProbedGraph, lower: ProbedGraph) -> dict[str, _Pair]:
    """By the name of the operator: all whose results are arithmetic, and that both graphs have."""
    people = {node.name: name for node, name in names_of_nodes(exact.model).items()}
    counterparts = {(node.name, node.op_type): node for node in lower.model.graph}
    tensors = set(exact.arithmetic.values())
    pairs = {}
    for node in exact.model.graph:
        other = counterparts.get((node.name, node.op_type))
        if other is None or len(node.outputs) != 1 or node.outputs[0].name not in tensors:
            continue
        dtype = other.outputs[0].dtype
        if dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            name = str(node.outputs[0].name)
            pairs[people[node.name]] = _Pair(name, other, str(other.outputs[0].name), dtype)
    return pairs


def _cut(model: ir.Model, pairs: dict[str, _Pair], wanted: list[str], axes: dict[str, int]) -> None:
    """Give every operator what the other graph had before it, in place; the outputs are ``wanted:TENSOR``."""
    graph = model.graph
    values = ir.convenience.create_value_mapping(graph)
    by_tensor = {pair.tensor: pair for pair in pairs.values()}
    for tensor, pair in by_tensor.items():
        node = values[tensor].producer()
        assert node is not None
        _take_constants(graph, node, pair.lower)
        _round_inputs(graph, node, pair.lower)
    graph.outputs.clear()
    for tensor in wanted:
        value = values[tensor]
        if tensor in by_tensor:
            given = ir.val(f"given:{tensor}", ir.DataType.FLOAT, ir.Shape([None] * axes[tensor]))
            value.replace_all_uses_with(given)
            graph.inputs.append(given)
        producer = value.producer()
        assert producer is not None
        output = ir.val(f"wanted:{tensor}", ir.DataType.FLOAT)
        producer.append(ir.node("Cast", [value], {"to": ir.DataType.FLOAT.value}, outputs=[output]))
        graph.outputs.append(output)


def _take_constants(graph: ir.Graph, node: ir.Node, lower: ir.Node) -> None:
    """The weights of the other graph: their own error is another check's."""
    for index, (value, other) in enumerate(zip(node.inputs, lower.inputs, strict=False)):
        if value is None or value.const_value is None or value.dtype is not ir.DataType.FLOAT:
            continue
        constant = constant_of(other)
        if constant is not None:
            held = constant.values if isinstance(constant, Quantized) else constant
            node.replace_input_with(index, added_constant(graph, f"{value.name}.lower", held.astype(np.float32)))


def _round_inputs(graph: ir.Graph, node: ir.Node, lower: ir.Node) -> None:
    """What the other operator reads in a lower type, or in whole numbers, is rounded to it before this one, too."""
    scale = input_scale_of(lower) if node in matrix_products_of(graph) else None
    for index, (value, other) in enumerate(zip(node.inputs, lower.inputs, strict=False)):
        if value is None or value.const_value is not None or value.dtype is not ir.DataType.FLOAT or other is None:
            continue
        if index == 0 and scale is not None:
            constants = [
                added_constant(graph, "own:scale", np.array(scale, np.float32)),
                added_constant(graph, "own:zero", np.array(0, np.int8)),
            ]
            whole = ir.node("QuantizeLinear", [value, *constants])
            back = ir.node("DequantizeLinear", [whole.outputs[0], *constants])
        elif other.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            whole = ir.node("Cast", [value], {"to": other.dtype.value})
            back = ir.node("Cast", [whole.outputs[0]], {"to": ir.DataType.FLOAT.value})
        else:
            continue
        node.prepend([whole, back])
        node.replace_input_with(index, back.outputs[0])


def matrix_products_of(graph: ir.Graph) -> set[ir.Node]:
    """Of a graph."""
    return set(matrix_products(ir.Model(graph, ir_version=10)))


def _in_steps(actual: NDArray[np.float32], expected: NDArray[np.generic], dtype: ir.DataType) -> float:
    """The largest difference in steps of a type, without what summing in another order explains."""
    wanted = np.asarray(expected, np.float64)
    if actual.shape != wanted.shape:
        return float("inf")
    if not wanted.size:
        return 0.0
    # What neither of them can hold is told by its magnitude.
    known = np.isfinite(wanted) & np.isfinite(actual)
    if not known.all() and not (np.isfinite(actual) | (np.abs(wanted) > _LARGEST[dtype]) | ~np.isfinite(wanted)).all():
        return float("inf")
    allowed = _ORDER_OF_SUMS * float(np.abs(wanted[known]).max(initial=0.0))
    over = np.maximum(np.abs(actual[known] - wanted[known]) - allowed, 0.0)
    return float((over / steps_of(wanted[known], dtype)).max(initial=0.0))


_LARGEST = {
    ir.DataType.FLOAT: float(np.finfo(np.float32).max),
    ir.DataType.FLOAT16: 65504.0,
    ir.DataType.BFLOAT16: float(np.finfo(np.float32).max),
}


def _saturation_check(form: FrameForm, trunk: TrunkRecord, feed: Feed) -> Check:
    """How much of each layer's input int8 cuts off."""
    graph = trunk.graphs[Precision.INT8]
    question = Question(
        kind=Kind.PRECISION,
        name=f"saturation of {graph}",
        subject=f"generated frame of {form.size[0]}x{form.size[1]}",
        quantity=Quantity.CUT_OFF,
        tolerance=_MOST_CUT_OFF,
        graph=graph,
        precision=Precision.INT8,
    )
    shares = attempted(partial(_cut_off, form.trunk(trunk, Precision.INT8), feed))
    if isinstance(shares, BackendError):
        return question.ended(shares)
    if not shares:
        return question.not_run("no layer is quantized")
    worst = max(shares, key=lambda name: shares[name])
    check = question.measured(shares[worst], f"most before {worst}")
    return check.located(f"{graph}: input of {worst}") if check.failed else check


def _cut_off(graph: ProbedGraph, feed: Feed) -> dict[str, float]:
    names, sources = names_of_nodes(graph.model), {}
    for layer in matrix_products(graph.model):
        scale = input_scale_of(layer)
        back = layer.inputs[0].producer() if layer.inputs[0] is not None else None
        whole = back.inputs[0].producer() if back is not None and back.inputs[0] is not None else None
        if scale is not None and whole is not None and whole.inputs[0] is not None:
            sources[names[layer]] = str(whole.inputs[0].name), scale
    with graph.runner(dict.fromkeys(tensor for tensor, _ in sources.values() if tensor not in feed)) as runner:
        results = {**feed, **runner.infer(feed)}
    return {
        name: float((np.abs(probed(results, tensor)) > (LEVELS + 0.5) * scale).mean())
        for name, (tensor, scale) in sources.items()
    }
