"""Half precision written out in float32: against numpy's own float16."""

from __future__ import annotations

import numpy as np
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, checker, helper

from converters.onnx_graphs.rounding import arithmetic_outputs, write_rounding

Floats = NDArray[np.float32]


def product() -> ModelProto:
    """``a * b`` in half precision between casts."""
    nodes = [
        helper.make_node("Cast", ["a"], ["half_a"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["b"], ["half_b"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["half_a", "half_b"], ["half_c"]),
        helper.make_node("Cast", ["half_c"], ["c"], to=TensorProto.FLOAT),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("a", "b")]
    output = helper.make_tensor_value_info("c", TensorProto.FLOAT, ["n"])
    held = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n"]) for name in ("half_a", "half_b", "half_c")]
    graph = helper.make_graph(nodes, "product", inputs, [output], value_info=held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def computed(model: ModelProto, a: Floats, b: Floats) -> Floats:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"a": a, "b": b})[0])


def rounded() -> ModelProto:
    model = product()
    assert arithmetic_outputs(model) == ["half_c"]
    write_rounding(model)
    checker.check_model(model, full_check=True)
    return model


ROUNDED = rounded()


def test_products_are_those_of_float16() -> None:
    draw = np.random.default_rng(0)
    a, b = (draw.normal(0, 30, 20_000).astype(np.float16) for _ in range(2))
    with np.errstate(over="ignore"):
        expected = (a * b).astype(np.float32)
    normal = (np.abs(expected) >= 2.0**-14) | (expected == 0)
    actual = computed(ROUNDED, a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_array_equal(actual[normal], expected[normal])
    assert normal.mean() > 0.99
    # Left alone, ONNX Runtime rounds nothing: this is why the rounding is written out.
    alone = computed(product(), a.astype(np.float32), b.astype(np.float32))
    assert (alone != expected).mean() > 0.5


@given(st.floats(-(2.0**120), 2.0**120, width=32).filter(lambda value: not 0 < abs(value) < 2.0**-14))
def test_any_number_is_rounded_or_becomes_infinite(value: float) -> None:
    with np.errstate(over="ignore"):
        expected = np.float32(np.float16(np.float32(value)))
    # A factor that half precision has leaves the other number as it is; the cast of the input is dropped.
    actual = computed(ROUNDED, np.array([value], np.float32), np.ones(1, np.float32))[0]
    if np.isfinite(expected):
        assert abs(actual - expected) <= abs(expected) * 2.0**-11
        assert np.float16(actual) == actual
    else:
        assert not np.isfinite(actual)


def test_the_edge_and_what_is_not_finite() -> None:
    a = np.array([65504, 65519, 65520, 65536, -65520, 1e30, np.inf, -np.inf, np.nan, 0], np.float32)
    actual = computed(ROUNDED, a, np.ones_like(a))
    expected = np.array([65504, 65504, np.inf, np.inf, -np.inf, np.inf, np.inf, -np.inf, np.nan, 0], np.float32)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[finite], expected[finite])
    np.testing.assert_array_equal(actual[2:6], expected[2:6])
    # Veltkamp's difference of infinities is no number; checks take either for what it is.
    assert not np.isfinite(actual[~finite]).any()
