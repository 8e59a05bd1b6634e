"""Half precision that ONNX Runtime rounds on a CPU: against numpy's own float16."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import checker

from converters.graphs import rounding
from converters.graphs.rounding import arithmetic_results, half_product, write_rounding
from engines.errors import BackendError

Floats = NDArray[np.float32]


def computed(model: ir.Model, a: Floats, b: Floats) -> Floats:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"a": a, "b": b})[0])


def rounded() -> ir.Model:
    model = half_product()
    assert [value.name for value in arithmetic_results(model)] == ["half_c"]
    write_rounding(model)
    checker.check_model(ir.to_proto(model), full_check=True)
    return model


ROUNDED = rounded()


def test_products_are_those_of_float16() -> None:
    draw = np.random.default_rng(0)
    # Products from below the smallest subnormal number to far beyond the largest of all.
    a, b = ((draw.normal(0, 1, 20_000) * 2.0 ** draw.uniform(-14, 9, 20_000)).astype(np.float16) for _ in range(2))
    with np.errstate(over="ignore"):
        expected = (a * b).astype(np.float32)
    assert np.isinf(expected).any()
    assert ((expected != 0) & (np.abs(expected) < 2.0**-14)).any()
    np.testing.assert_array_equal(computed(ROUNDED, a.astype(np.float32), b.astype(np.float32)), expected)
    # Left alone, ONNX Runtime rounds nothing: this is why the graph is changed.
    alone = computed(half_product(), a.astype(np.float32), b.astype(np.float32))
    assert (alone != expected).mean() > 0.5


@given(st.floats(width=32))
def test_any_number_becomes_a_float16(value: float) -> None:
    with np.errstate(over="ignore"):
        expected = np.array([value], np.float32).astype(np.float16).astype(np.float32)
    # Half precision has the factor, so it leaves the other number as it is; the cast of the input is dropped.
    np.testing.assert_array_equal(computed(ROUNDED, np.array([value], np.float32), np.ones(1, np.float32)), expected)


def test_the_edge_and_what_is_not_finite() -> None:
    a = np.array([65504, 65519, 65520, 65536, -65520, 1e30, np.inf, -np.inf, np.nan, 0], np.float32)
    expected = np.array([65504, 65504, np.inf, np.inf, -np.inf, np.inf, np.inf, -np.inf, np.nan, 0], np.float32)
    np.testing.assert_array_equal(computed(ROUNDED, a, np.ones_like(a)), expected)


def test_a_runtime_that_drops_the_rounding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rounding.rounding_refusal.cache_clear()
    monkeypatch.setattr(rounding, "_round", lambda graph, values: None)
    with pytest.raises(BackendError, match="rounds nothing to half precision; fp16 cannot be judged here"):
        write_rounding(half_product())
    rounding.rounding_refusal.cache_clear()
