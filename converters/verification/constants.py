"""The constants of a graph in a lower precision against those of the fp32 graph that it was made from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from converters.graphs.identity import module_of
from converters.graphs.layers import layers_of, names_of_nodes
from converters.verification.probes import ProbedGraph
from converters.verification.subject import Subject
from engines.bundle.manifest import TrunkRecord
from engines.bundle.records import Check, Kind, Quantity
from engines.parity.checks import Question
from engines.schedules.schedule import Precision

Array = NDArray[np.float64]

_HALF_STEP = 0.5 + 1e-4
"""Of a type: what rounding to the nearest of its numbers may change, and what arithmetic here may add."""

_COARSEST = 1.25 + 1e-6
"""Scales have 3 bits, 4/8 to 7/8: rounding one up makes it at most a quarter larger."""

LEVELS = 127
"""Of int8: the largest quantized magnitude."""

_MANTISSA = {
    ir.DataType.FLOAT16: (10, -14),
    ir.DataType.BFLOAT16: (7, -126),
    ir.DataType.FLOAT: (23, -126),
}
"""Bits behind the point, and the smallest exponent of a normal number."""


def steps_of(values: NDArray[np.floating], dtype: ir.DataType) -> Array:
    """The distance of neighbouring numbers of a type at these values: one unit in the last place."""
    bits, smallest = _MANTISSA[dtype]
    exponent = np.frexp(np.abs(values.astype(np.float64)))[1] - 1
    return np.asarray(np.ldexp(1.0, np.maximum(exponent, smallest) - bits), np.float64)


@dataclass(frozen=True, eq=False)
class Quantized:
    """Whole numbers and the scale that makes values of them."""

    whole: Array
    scale: Array
    """In the shape of ``whole``, or one number."""

    @property
    def values(self) -> Array:
        """What a layer reads."""
        return self.whole * self.scale


def constant_of(value: ir.Value | None) -> Array | Quantized | None:
    """What a layer reads where that is made of constants; ``None`` where it is not, or is made in an unknown way."""
    if value is None:
        return None
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy(), np.float64)
    producer = value.producer()
    if producer is None:
        return None
    if producer.op_type == "Cast":
        source = constant_of(producer.inputs[0])
        dtype = ir.DataType(producer.attributes["to"].as_int())
        if not isinstance(source, np.ndarray) or dtype not in _MANTISSA:
            return None
        return np.asarray(source.astype(dtype.numpy()), np.float64)
    if producer.op_type == "DequantizeLinear":
        whole, scale, *rest = (constant_of(held) for held in producer.inputs)
        if not isinstance(whole, np.ndarray) or not isinstance(scale, np.ndarray):
            return None
        zero = rest[0] if rest and isinstance(rest[0], np.ndarray) else np.zeros(())
        axis = producer.attributes["axis"].as_int() if "axis" in producer.attributes else 1
        spread = [-1 if place == axis % max(whole.ndim, 1) else 1 for place in range(whole.ndim)]
        along = [held.reshape(spread) if held.size > 1 else held.reshape(()) for held in (scale, zero)]
        return Quantized(whole - along[1], along[0])
    return None


def input_scale_of(layer: ir.Node) -> float | None:
    """The scale that a layer's input is quantized with; ``None`` where it is not."""
    producer = layer.inputs[0].producer() if layer.inputs[0] is not None else None
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    scale = constant_of(producer.inputs[1])
    return float(scale.ravel()[0]) if isinstance(scale, np.ndarray) and scale.size == 1 else None


def constant_checks(subject: Subject) -> Iterator[Check]:
    """Weights and biases of every graph but the fp32 ones; in int8 its scales, too."""
    for trunk in subject.bundle.manifest.trunks:
        others = [precision for precision in trunk.graphs if precision is not Precision.FP32]
        exact = _layers(subject, trunk, Precision.FP32) if others else {}
        for precision in others:
            layers = _layers(subject, trunk, precision)
            yield _weight_check(trunk, precision, exact, layers)
            if precision is Precision.INT8:
                yield _scale_check(subject, trunk, exact, layers)


def _layers(subject: Subject, trunk: TrunkRecord, precision: Precision) -> dict[str, ir.Node]:
    """By name, in the order of the graph."""
    model = ProbedGraph(subject.bundle.file(subject.bundle.trunk_graph(trunk, precision)), precision).model
    names = names_of_nodes(model)
    return {names[layer]: layer for layer in layers_of(model)}


def _question(trunk: TrunkRecord, precision: Precision, what: str, quantity: Quantity, tolerance: float) -> Question:
    graph = trunk.graphs[precision]
    return Question(
        kind=Kind.PRECISION,
        name=f"{what} of {graph}",
        subject=f"against {trunk.graphs[Precision.FP32]}",
        quantity=quantity,
        tolerance=tolerance,
        graph=graph,
        precision=precision,
    )


def _weight_check(
    trunk: TrunkRecord, precision: Precision, exact: dict[str, ir.Node], layers: dict[str, ir.Node]
) -> Check:
    """To half a step of what they are stored in, everywhere."""
    question = _question(trunk, precision, "weights", Quantity.WEIGHT_ERROR, _HALF_STEP)
    worst, at, compared = 0.0, "", 0
    for name, layer in layers.items():
        if name not in exact:
            return question.broke(f"{trunk.graphs[Precision.FP32]} has no layer {name}").located(name)
        for what, index in (("weights", 1), ("bias", 2)):
            if index >= len(layer.inputs) or index >= len(exact[name].inputs):
                continue
            error = _weight_error(exact[name].inputs[index], layer, index)
            if error is None:
                continue
            compared += 1
            if not error <= worst:
                worst, at = error, f"{trunk.graphs[precision]}: {what} of {name}"
    if not compared:
        return question.not_run("no layer has weights that are constants")
    check = question.measured(worst, f"{compared} weights and biases, the worst in {at}" if at else "")
    return check.located(at) if check.failed else check


def _weight_error(exact: ir.Value | None, layer: ir.Node, index: int) -> float | None:
    """Largest difference, in steps; ``None`` where one of them is no constant."""
    value = layer.inputs[index]
    expected, actual = constant_of(exact), constant_of(value)
    if not isinstance(expected, np.ndarray) or actual is None or value is None or value.dtype not in _MANTISSA:
        return None
    held = actual.values if isinstance(actual, Quantized) else actual
    if held.shape != expected.shape:
        return float("inf")
    steps = actual.scale if isinstance(actual, Quantized) else steps_of(expected, value.dtype)
    if index == 2 and (unit := _bias_unit(layer)) is not None:
        # The bias of an integer convolution is a whole number of its products.
        steps = np.maximum(unit, steps)
    # What overflows is told by its magnitude.
    error = np.where(np.isfinite(held), np.abs(held - expected) / steps, 0.0)
    return float(error.max(initial=0.0))


def _bias_unit(layer: ir.Node) -> Array | None:
    weights, scale = constant_of(layer.inputs[1]), input_scale_of(layer)
    if not isinstance(weights, Quantized) or scale is None:
        return None
    return (weights.scale * scale).ravel()


def _scale_check(subject: Subject, trunk: TrunkRecord, exact: dict[str, ir.Node], layers: dict[str, ir.Node]) -> Check:
    """Every scale against the magnitude that it makes 127: of the weights, and of the calibrated activations."""
    question = _question(trunk, Precision.INT8, "scales", Quantity.SCALE_RATIO, _COARSEST)
    calibration = subject.bundle.manifest.calibration
    ranges = calibration.ranges if calibration else {}
    worst, at = 1.0, ""
    for name, layer in layers.items():
        weights, scale = constant_of(layer.inputs[1]), input_scale_of(layer)
        if not isinstance(weights, Quantized):
            continue
        original = constant_of(exact[name].inputs[1]) if name in exact else None
        if isinstance(original, np.ndarray) and original.ndim:
            largest = np.abs(original).reshape(len(original), -1).max(1)
            ratio = _ratio(np.broadcast_to(weights.scale.ravel(), largest.shape), largest)
            if not ratio <= worst:
                worst, at = ratio, f"scale of the weights of {name}"
        if module_of(layer) in ranges and scale is not None:
            ratio = _ratio(np.array([scale]), np.array([ranges[module_of(layer)]]))
            if not ratio <= worst:
                worst, at = ratio, f"scale of the input of {name}"
    check = question.measured(worst)
    return check.located(f"{trunk.graphs[Precision.INT8]}: {at}") if check.failed else check


def _ratio(scales: NDArray[np.floating], largest: NDArray[np.floating]) -> float:
    """How far scales are from what these magnitudes need, at the worst; a magnitude of zero needs none."""
    held = largest > 0
    if not held.any():
        return 1.0
    ratios = scales[held] * LEVELS / largest[held]
    # What float32 loses of a scale that is exactly right.
    ratios = np.where((ratios < 1) & (ratios > 1 - 1e-6), 1.0, ratios)
    # One below what is needed cuts off, however little: a quarter above is what rounding up may cost.
    return float(np.where(ratios >= 1, ratios, _COARSEST / ratios).max())
