"""Proofs of written graphs: planted faults in files are found, with the layer; what is written wrongly is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from converters.analysis.network import traced_network
from converters.exporting import export
from converters.graphs import written
from converters.graphs.from_torch import onnx_from_torch
from converters.graphs.precision import cast_network
from converters.graphs.quantization.graphs import quantize_network
from converters.graphs.stages import Trunk
from converters.graphs.weights import SharedWeights
from converters.graphs.written import TrunkProof, WrittenGraphs
from engines import OutputKind, Precision
from engines.errors import NetworkError

SIZE = (6, 10)


class Chain(nn.Module):
    """Three convolutions of one shape, called as a copy of another one might be, and a layer between them."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.branch_dilated_1, self.branch_dilated_2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.branch, self.layer = nn.Conv2d(4, 4, 3, padding=1), layer

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(self.layer(self.branch_dilated_2(self.branch_dilated_1(x))))


def chain(layer: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(5)
    return Chain(layer or nn.ReLU()).eval()


def trunk_of(network: nn.Module, outputs: OutputKind = OutputKind.LOGITS) -> Trunk:
    return Trunk(traced_network(network).graph, (), outputs).eval()


def model_of(trunk: Trunk) -> ir.Model:
    windows = {"windows": torch.zeros(2, 3, *SIZE)}
    return onnx_from_torch(trunk, windows, output_name=trunk.predictions.outputs.value, opset=18, batch="phases")


def windows(scale: float = 1.0) -> dict[str, NDArray[np.generic]]:
    return {"windows": scale * np.random.default_rng(0).standard_normal((1, 3, *SIZE)).astype(np.float32)}


RANGES = dict.fromkeys(("branch_dilated_1", "branch_dilated_2", "branch"), 4.0)


@pytest.fixture(scope="module", params=list(OutputKind))
def plain(request: pytest.FixtureRequest) -> tuple[Trunk, ir.Model]:
    """A trunk of each kind of output, and its graph in fp32."""
    trunk = trunk_of(chain(), request.param)
    return trunk, model_of(trunk)


def prove(folder: Path, trunk: Trunk, model: ir.Model, precision: Precision) -> list[str]:
    """Write a graph and prove the file; what was said."""
    said: list[str] = []
    with SharedWeights(folder / "weights.bin") as weights:
        weights.save_graph(model, folder / "trunk.onnx")
        proof = TrunkProof(trunk, windows(), RANGES)
        WrittenGraphs(folder, said.append).prove_trunk("trunk.onnx", precision, proof)
    return said


def converted(model: ir.Model, precision: Precision) -> ir.Model:
    model = model.clone()
    if precision is Precision.INT8:
        quantize_network(model, RANGES)
    elif precision is Precision.FP16:
        cast_network(model, precision)
    return model


def convolutions(model: ir.Model) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == "Conv"]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_what_is_written_rightly_is_proven_in_every_precision(
    plain: tuple[Trunk, ir.Model], precision: Precision, tmp_path: Path
) -> None:
    trunk, model = plain
    assert prove(tmp_path, trunk, converted(model, precision), precision) == []


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_a_layer_with_anothers_weights_is_found(
    plain: tuple[Trunk, ir.Model], precision: Precision, tmp_path: Path
) -> None:
    trunk, model = plain
    model = converted(model, precision)
    _, second, third = convolutions(model)
    third.replace_input_with(1, second.inputs[1])
    words = r"trunk.onnx: what ONNX Runtime computes differs from PyTorch by \d\.\de[+-]\d\d of the largest logit"
    where = r", first in branch \(Conv2d\) or between it and layer" if precision is Precision.FP32 else ""
    why = "torch.onnx does not write everything as" if precision is Precision.FP32 else "The fp32 graph is right, so w"
    with pytest.raises(NetworkError, match=rf"{words}{where}\. {why}"):
        prove(tmp_path, trunk, model, precision)


def test_one_weight_in_a_thousand_off_by_a_hundredth_is_found_in_fp32(tmp_path: Path) -> None:
    trunk = trunk_of(chain())
    model = model_of(trunk)
    weight = convolutions(model)[1].inputs[1]
    assert weight is not None
    assert weight.const_value is not None
    changed = weight.const_value.numpy().copy()
    changed[0, 0, 1, 1] += 0.01 * np.abs(changed).max()
    weight.const_value = ir.tensor(changed, name=weight.name)
    with pytest.raises(
        NetworkError, match=r"first in branch_dilated_2 \(Conv2d\) or between it and branch_dilated_1\."
    ):
        prove(tmp_path, trunk, model, Precision.FP32)


def test_predictions_that_are_not_those_of_the_logits_are_found(tmp_path: Path) -> None:
    trunk = trunk_of(chain(), OutputKind.LABELS)
    model = model_of(trunk)
    (argmax,) = (node for node in model.graph if node.op_type == "ArgMax")
    argmax.op_type = "ArgMin"
    with pytest.raises(NetworkError, match=r"trunk\.onnx: its labels in ONNX Runtime are not those of its logits"):
        prove(tmp_path, trunk, model, Precision.FP32)


def test_a_file_that_onnx_runtime_does_not_take_is_refused_with_the_node(tmp_path: Path) -> None:
    trunk = trunk_of(chain())
    model = model_of(trunk)
    convolutions(model)[2].attributes["group"] = ir.AttrInt64("group", 3)
    with pytest.raises(NetworkError, match=r"trunk\.onnx cannot be used as it is written: ONNX Runtime .*branch/Conv"):
        prove(tmp_path, trunk, model, Precision.FP32)


def test_fp16_that_overflows_is_said(tmp_path: Path) -> None:
    network = chain()
    with torch.no_grad():
        network.branch_dilated_2.weight *= 1e7
        network.branch.weight *= 1e-7
    trunk = trunk_of(network)
    model = model_of(trunk).clone()
    (words,) = cast_network(model, Precision.FP16)
    count = int((network.branch_dilated_2.weight.abs() > 65520).sum())
    assert words == (
        f"{count} of 144 values of branch_dilated_2.weight are too large "
        "for fp16 and infinite in its trunks; keep_fp32= keeps their module in fp32"
    )
    said = prove(tmp_path, trunk, model, Precision.FP16)
    assert said == [
        "trunk.onnx does not give finite logits on a reference frame: something is too large for fp16; "
        "smp-deploy debug-precision finds what to keep in fp32"
    ]


def test_a_proof_that_has_no_memory_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trunk = trunk_of(chain())
    monkeypatch.setattr(written, "available_bytes", lambda: 2**10)
    (said,) = prove(tmp_path, trunk, model_of(trunk), Precision.FP32)
    assert said.startswith("trunk.onnx is not proven in ONNX Runtime: that needs about 0.0 GiB of memory")


class Ends(nn.Module):
    """Ten factors of 1.000008, and a sum with 1e-8: each within an optimizer's tolerance of doing nothing."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(10):
            x = x * 1.000008
        return x * torch.rsqrt((x * 0).abs() + 1e-8)


def test_numbers_near_zero_and_one_are_kept() -> None:
    trunk = trunk_of(chain(Ends()))
    model = model_of(trunk)
    constants = [
        float(value.const_value.numpy())
        for node in model.graph
        for value in node.inputs
        if value is not None and value.const_value is not None and value.const_value.size == 1
    ]
    assert sum(np.float32(constant) == np.float32(1.000008) for constant in constants) == 10
    assert constants.count(float(np.float32(1e-8))) == 1


BOUNDS: dict[str, Callable[[Tensor], Tensor]] = {
    "a clip of a clip whose bounds cross": lambda x: x.clamp(0, 1).clamp(2, 3),
    "a ReLU of a clip below zero": lambda x: torch.relu(x.clamp(max=-0.5)),
    "a minimum above a maximum": lambda x: torch.clamp(x, 1.0, -1.0),
}


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return x + self.function(x)


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_that_cross_are_as_in_pytorch(name: str, tmp_path: Path) -> None:
    trunk = trunk_of(chain(Function(BOUNDS[name])))
    assert prove(tmp_path, trunk, model_of(trunk), Precision.FP32) == []


def test_an_option_that_the_exporter_ignores_is_refused_by_the_layers_name(tmp_path: Path) -> None:
    pool = nn.AvgPool2d(3, stride=1, padding=1, divisor_override=2)
    with pytest.raises(NetworkError, match=r"model\.onnx: what .* first in layer \(AvgPool2d\) or between it and b"):
        export(chain(pool), tmp_path / "bundle", size=SIZE, precisions="fp32")
    assert not (tmp_path / "bundle").exists()


class Named(nn.Module):
    """Parameters of its own, called as inputs and outputs of graphs are."""

    NAMES = ("logits", "labels", "windows", "offsets", "frames", "planes")

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Conv2d(3, 4, 1)
        for name in self.NAMES:
            self.register_parameter(name, nn.Parameter(torch.randn(4, 1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.branch(x)
        for name in self.NAMES:
            x = x + getattr(self, name)
        return x


@pytest.mark.parametrize("outputs", [OutputKind.LOGITS, OutputKind.LABELS])
def test_parameters_that_are_called_as_inputs_and_outputs_are(outputs: OutputKind, tmp_path: Path) -> None:
    torch.manual_seed(6)
    trunk = trunk_of(Named().eval(), outputs)
    model = model_of(trunk)
    for precision in (Precision.FP32, Precision.FP16, Precision.INT8):
        assert prove(tmp_path, trunk, converted(model, precision), precision) == []
        held = ir.load(tmp_path / "trunk.onnx").graph
        assert [value.name for value in held.inputs] == ["windows"]
        assert [value.name for value in held.outputs] == [outputs.value]
        assert not {"windows", outputs.value} & set(held.initializers)


class Heads(nn.Module):
    """Two convolutions of one input, whose biases are equal and whose weights are not."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
        with torch.no_grad():
            self.other.weight *= 0.3
            for conv in (self.one, self.other):
                conv.bias.fill_(-4.6)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.other(x)


def test_equal_biases_are_rounded_each_to_its_own_unit() -> None:
    torch.manual_seed(8)
    model = model_of(trunk_of(Heads().eval())).clone()
    quantize_network(model, {"one": 4.0, "other": 4.0})
    for conv in convolutions(model):
        source, weight, bias = conv.inputs
        scales = [value.producer().inputs[1].const_value.numpy() for value in (source, weight)]  # type: ignore[union-attr]
        units = bias.const_value.numpy() / (scales[0] * scales[1])  # type: ignore[union-attr]
        assert np.array_equal(units, np.round(units))
