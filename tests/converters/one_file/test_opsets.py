"""Opset 17: what is written anew there gives the same, and what does not exist there is refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from converters.one_file.opsets import lower
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.errors import NetworkError


def model_of(body: str, opset: int = 18, constants: str = "") -> ir.Model:
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : {opset}]>
        network (float[2,4,6] x) => (float[a,b,c] y) {constants}
        {{
            {body}
        }}""")


def ran(model: ir.Model) -> np.ndarray:
    content = ir.to_proto(model).SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    x = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    with OnnxRuntimeRunner(content) as runner:
        (result,) = runner.infer({"x": x}).values()
    return np.asarray(result)


REDUCED = "y = ReduceMean <keepdims = 1> (x, axes)"
ALL = "y = ReduceMax <keepdims = 1> (x)"
SPLIT = "first, second = Split <axis = 1, num_outputs = 2> (x)\ny = Sub (second, first)"
IN_A_LOOP = """
    trips = Constant <value_int = 3> ()
    y = Loop (trips, , x) <body = step (int64 i, bool go, float[2,4,6] held) => (bool on, float[2,4,6] next) {
        on = Identity (go)
        mean = ReduceMean <keepdims = 1> (held, axes)
        next = Sub (held, mean)
    }>
"""


@pytest.mark.parametrize(("body", "kind"), [(REDUCED, "ReduceMean"), (ALL, "ReduceMax"), (SPLIT, "Split")])
def test_what_changed_its_form_gives_the_same(body: str, kind: str) -> None:
    model = model_of(body, constants="<int64[2] axes = {1, 2}>")
    before = ran(model)
    lower(model)
    assert (model.opset_imports[""], model.ir_version) == (17, 8)
    (node,) = (node for node in model.graph if node.op_type == kind)
    assert "num_outputs" not in node.attributes
    assert len(node.inputs) == 1
    np.testing.assert_array_equal(ran(model), before)


def test_bodies_of_loops_too() -> None:
    model = model_of(IN_A_LOOP, constants="<int64[1] axes = {2}>")
    lower(model)
    (body,) = (node.attributes["body"].as_graph() for node in model.graph if node.op_type == "Loop")
    (mean,) = (node for node in body if node.op_type == "ReduceMean")
    assert list(mean.attributes["axes"].as_ints()) == [2]


@pytest.mark.parametrize(
    ("body", "opset", "message"),
    [
        ("y = Gelu (x)", 20, r" is a Gelu, which came after opset 17; leave opset= out$"),
        (
            's = Constant <value = float[3] {1.0, 1.0, 2.0}> ()\ny = Resize <antialias = 1, mode = "linear"> (x, , s)',
            18,
            r", a Resize, has antialias, which opset 17 does not know; leave opset= out$",
        ),
        (
            "p = Constant <value = int64[2] {0, 1}> ()\nv = Constant <value_float = 0.0> ()\n"
            "a = Constant <value = int64[1] {2}> ()\ny = Pad (x, p, v, a)",
            18,
            r", a Pad, has 4 inputs, and at most 3 in opset 17; leave opset= out$",
        ),
        (
            "shape = Shape (x)\none = Constant <value = int64[1] {1}> ()\naxes = Div (one, one)\n"
            "y = ReduceMean <keepdims = 1> (x, axes)",
            18,
            r", a ReduceMean, computes its axes, which opset 17 cannot$",
        ),
    ],
    ids=["came later", "attribute", "input", "computed axes"],
)
def test_what_opset_17_does_not_have_is_refused(body: str, opset: int, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        lower(model_of(body, opset))
