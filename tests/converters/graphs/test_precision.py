"""Operators and numbers that half precision does not have: what stays in fp32, and that results are right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

from converters.analysis.network import traced_network
from converters.graphs.from_torch import onnx_from_torch
from converters.graphs.precision import cast_network
from converters.graphs.rounding import write_rounding
from converters.graphs.stages import Trunk
from engines import OutputKind, Precision
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner

HALF = {Precision.FP16: ir.DataType.FLOAT16, Precision.BF16: ir.DataType.BFLOAT16}


class Between(nn.Module):
    """A convolution, something, and a convolution."""

    def __init__(self, something: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.something = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), something

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.something(self.first(x)))


def network_of(something: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(2)
    return Between(something).eval()


def graph_of(network: nn.Module, opset: int) -> ir.Model:
    trunk = Trunk(traced_network(network).graph, (), OutputKind.LOGITS).eval()
    windows = {"windows": torch.zeros(2, 3, 6, 8)}
    return onnx_from_torch(trunk, windows, output_name="logits", opset=opset, batch="phases")


def rounded_logits(model: ir.Model, windows: Tensor) -> np.ndarray:
    """With results that are really rounded to half precision."""
    model = model.clone()
    write_rounding(model)
    with OnnxRuntimeRunner(ir.to_proto(model).SerializeToString()) as runner:
        return runner.infer({"windows": windows.numpy()})["logits"]


def types_of(model: ir.Model) -> dict[str, ir.DataType | None]:
    return {node.op_type: node.outputs[0].dtype for node in model.graph}


@pytest.mark.parametrize(("precision", "opset"), [(Precision.FP16, 18), (Precision.BF16, 22)])
def test_an_operator_without_the_type_stays_between_casts(precision: Precision, opset: int, tmp_path: Path) -> None:
    # CELU is ONNX's for float32 alone, whatever the opset.
    network = network_of(nn.CELU(0.7))
    model = graph_of(network, opset)
    assert cast_network(model, precision) == []
    ir.save(model, tmp_path / "graph.onnx")
    onnx.checker.check_model(tmp_path / "graph.onnx", full_check=True)
    types = types_of(model)
    assert (types["Conv"], types["Celu"]) == (HALF[precision], ir.DataType.FLOAT)
    order = [node.op_type for node in model.graph]
    assert order == ["Cast", "Conv", "Cast", "Celu", "Cast", "Conv", "Cast"]
    if precision is Precision.FP16:
        windows = torch.randn(1, 3, 6, 8)
        expected = network(windows).detach().numpy()
        assert np.abs(rounded_logits(model, windows) - expected).max() <= 2e-3 * np.abs(expected).max()


NUMBERS: dict[str, tuple[Callable[[Tensor], Tensor], set[str], str]] = {
    "normalize": (F.normalize, {"ReduceL2", "Clip", "Div"}, "1e-12"),
    "rsqrt": (lambda x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-8), {"ReduceMean", "Add"}, "1e-08"),
    "limit": (lambda x: x.clamp(max=1e6), {"Clip"}, "1e+06"),
    "mask": (lambda x: x.masked_fill(x < 0, -1e9).softmax(1), {"Where", "Softmax"}, "-1e+09"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_half_precision_does_not_hold_is_computed_with_in_fp32(name: str) -> None:
    something, operators, number = NUMBERS[name]
    network = network_of(something)
    model = graph_of(network, 18)
    (sentence,) = cast_network(model, Precision.FP16)
    assert sentence.startswith("the network computes its ")
    assert sentence.endswith(f" in fp32 in the fp16 trunks: fp16 has no {number}")
    types = types_of(model)
    assert {types[operator] for operator in operators} == {ir.DataType.FLOAT}
    assert types["Conv"] is ir.DataType.FLOAT16
    with torch.no_grad():
        # Vectors of zeros, and tiny ones.
        network.first.bias.zero_()
        windows = torch.randn(1, 3, 6, 8)
        windows[..., :2] = 0
        windows[..., 2:4] *= 1e-6
        model = graph_of(network, 18)
        cast_network(model, Precision.FP16)
        expected = network(windows).numpy()
    error = np.abs(rounded_logits(model, windows) - expected)
    # A tiny vector's direction is coarse in half precision, and its length is right.
    assert error[..., 4:].max() <= 5e-3 * np.abs(expected).max()
    assert error[..., :2].max() <= 5e-3 * np.abs(expected).max()
    assert np.isfinite(error).all()


def test_bf16_holds_them_all() -> None:
    for something, _, _ in NUMBERS.values():
        model = graph_of(network_of(something), 22)
        assert cast_network(model, Precision.BF16) == []


def test_a_number_that_half_precision_holds_stays_in_it() -> None:
    model = graph_of(network_of(lambda x: x * torch.rsqrt(x.abs() + 1e-5)), 18)
    assert cast_network(model, Precision.FP16) == []
    assert {node.outputs[0].dtype for node in model.graph if node.op_type in ("Add", "Mul")} == {ir.DataType.FLOAT16}
