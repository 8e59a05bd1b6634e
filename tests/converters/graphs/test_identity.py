"""Whose a node is: in metadata, whatever modules are called, and in the files that are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from converters.analysis.modules import original_module
from converters.analysis.network import traced_network
from converters.exporting import export
from converters.graphs.from_torch import onnx_from_torch
from converters.graphs.identity import MODULE_KEY, PART_KEY, Part, identities_from_scopes, module_of, part_of
from converters.graphs.stages import Trunk
from converters.pooling import MergePool2d, SplitPool2d
from converters.reference import noise_frame
from converters.rewriting.loops import looped_from_network
from converters.rewriting.lowerings import lowered
from converters.verification.precision_search import searched_precision
from converters.verification.probes import ProbedGraph
from engines import Bundle, Lowering, OutputKind, Precision, Session
from engines.schedules.schedule import Schedule

SIZE = (16, 24)
FRAMES = tuple(noise_frame(SIZE, seed) for seed in range(2))

ALIKE = ("branch_dilated_1", "branch_dilated_2", "branch", "branch_dilated_2x2")
ODD = ("a/b", "a", "a b", "x'y", "Conv_1", "ümlaut", "[0]")
STAGES = ("network", "normalize", "predictions", "logits", "windows", "frames")
"""What stages, inputs and outputs are called."""


class Branches(nn.Module):
    """Convolutions of these names, one after the other, the last ones on split batches; then a head."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        self.split = SplitPool2d(2)
        channels = 3
        for name in names:
            self.add_module(name, nn.Conv2d(channels, 6, 3, padding=1))
            channels = 6
        self.head = nn.Conv2d(6, 4, 1)
        self.merge = MergePool2d(self.split)

    def forward(self, x: Tensor) -> Tensor:
        for index, name in enumerate(self.names):
            if index == 1:
                x = self.split(x)
            # The sum belongs to no module.
            x = torch.relu(getattr(self, name)(x)) + 0.125
        return self.merge(self.head(x))


def network_of(names: tuple[str, ...]) -> nn.Module:
    torch.manual_seed(7)
    return Branches(names).eval()


@pytest.fixture(scope="module", params=[ALIKE, ODD, STAGES], ids=["alike", "odd", "stages"])
def names(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return tuple(request.param)


@pytest.fixture(scope="module")
def bundle(names: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(
        network_of(names),
        tmp_path_factory.mktemp("named") / "bundle",
        size=SIZE,
        outputs="logits",
        precisions=("fp16", "int8"),
        # Brackets are a pattern's own: they stand for what they hold.
        keep_fp32=(names[-1].replace("[0]", "[[]0]"),),
        calibration_frames=FRAMES,
        calibration="minmax",
        levels=1,
        lowerings=tuple(Lowering),
    )


def models(bundle: Bundle) -> dict[str, ir.Model]:
    trunks = (name for trunk in bundle.manifest.trunks for name in trunk.graphs.values())
    return {name: ir.load(bundle.path / name) for name in ("model.onnx", "prepare.onnx", *trunks)}


def test_every_lowering_and_precision_is_near_fp32(bundle: Bundle) -> None:
    with Session.open(bundle) as session:
        expected = session.predict(FRAMES[0])
    scale = np.abs(expected).max()
    limits = {Precision.FP32: 1e-5, Precision.FP16: 1e-2, Precision.INT8: 0.1}
    for trunk in bundle.manifest.trunks:
        for precision, limit in limits.items():
            with Session.open(
                bundle, precision=precision, schedule=Schedule(trunk.levels, 2, trunk.lowering)
            ) as session:
                logits = session.predict(FRAMES[0])
            assert np.abs(logits - expected).max() <= limit * scale
            assert (logits.argmax(0) == expected.argmax(0)).mean() >= (0.9 if precision is Precision.INT8 else 0.99)


def test_every_convolution_has_a_weight_of_its_own(bundle: Bundle, names: tuple[str, ...]) -> None:
    state = network_of(names).state_dict()
    for trunk in bundle.manifest.trunks:
        for precision, name in trunk.graphs.items():
            found: dict[str, np.ndarray] = {}
            for node in ir.load(bundle.path / name).graph:
                if node.op_type != "Conv":
                    continue
                weight, module = node.inputs[1], module_of(node)
                assert weight is not None
                producer = weight.producer()
                if producer is None:
                    values = weight.const_value.numpy()  # type: ignore[union-attr]
                else:
                    whole, scales = (value.const_value.numpy() for value in producer.inputs[:2])  # type: ignore[union-attr]
                    values = whole.astype(np.float32) * scales.reshape(-1, 1, 1, 1)
                expected = state[f"{module}.weight"].numpy()
                step = {Precision.FP16: 2.0**-11, Precision.INT8: 2 / 127}.get(precision, 0)
                assert np.abs(values - expected).max() <= step * np.abs(expected).max()
                found[module] = values
            assert set(found) == {*names, "head"}


def test_the_manifest_knows_the_networks_modules_and_what_is_kept(bundle: Bundle, names: tuple[str, ...]) -> None:
    assert bundle.manifest.calibration is not None
    assert set(bundle.manifest.calibration.ranges) == {*names, "head"}
    for trunk in bundle.manifest.trunks:
        for precision in (Precision.FP16, Precision.INT8):
            graph = ir.load(bundle.file(bundle.trunk_graph(trunk, precision))).graph
            kept = set()
            for node in graph:
                if node.op_type == "Conv":
                    producer = node.inputs[1].producer()  # type: ignore[union-attr]
                    if node.outputs[0].dtype is ir.DataType.FLOAT and producer is None:
                        kept.add(module_of(node))
            assert kept == {names[-1]}


def test_metadata_is_in_the_files_and_nothing_else_says_whose_a_node_is(bundle: Bundle, names: tuple[str, ...]) -> None:
    for name, model in models(bundle).items():
        onnx.checker.check_model(str(bundle.path / name), full_check=True)
        nodes = list(model.graph)
        assert len({node.name for node in nodes}) == len(nodes)
        assert all(node.metadata_props.keys() <= {MODULE_KEY, PART_KEY} for node in nodes)
        assert {module_of(node) for node in nodes if node.op_type == "Conv"} in ({*names, "head"}, set())
        # protobuf's own reading, for what another tool sees.
        for node in onnx.load(bundle.path / name, load_external_data=False).graph.node:
            entries = {entry.key: entry.value for entry in node.metadata_props}
            assert entries[PART_KEY] in {part.value for part in Part}
            assert entries.get(MODULE_KEY, "head") in {*names, "head", "split", "merge"}
    parts = {name: {part_of(node) for node in model.graph} for name, model in models(bundle).items()}
    assert parts["prepare.onnx"] == {Part.NORMALIZE}
    assert parts["model.onnx"] == {Part.NORMALIZE, Part.NETWORK}
    assert Part.NETWORK in parts["trunk.onnx"]


def test_renamed_nodes_change_nothing(bundle: Bundle, names: tuple[str, ...]) -> None:
    path = bundle.file(bundle.trunk_graph(bundle.manifest.trunk(), Precision.FP32))
    named, renamed = ProbedGraph(path), ProbedGraph(path)
    for index, node in enumerate(renamed.model.graph):
        node.name = f"n{index}"
    assert list(named.layer_outputs) == list(renamed.layer_outputs) == [*names, "head"]


def test_modules_are_searched_by_their_own_names(bundle: Bundle, names: tuple[str, ...]) -> None:
    search = searched_precision(bundle, Precision.INT8, FRAMES[:1])
    assert search.kept_before == (names[-1],)
    assert {entry.module for entry in search.ranked} == {*names[:-1], "head"}


class Shared(nn.Module):
    """One convolution on two levels, beside modules that are called as its copies would be."""

    def __init__(self) -> None:
        super().__init__()
        self.split, self.stem = SplitPool2d(2), nn.Conv2d(3, 4, 3, padding=1)
        self.conv, self.conv_dilated_2x2 = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.merge = MergePool2d(self.split)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(torch.relu(self.stem(x)))
        return self.merge(self.conv(self.conv_dilated_2x2(self.split(x))))


def test_copies_of_the_dilated_lowering_are_the_module_they_are_copies_of(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = Shared().eval()
    looped = looped_from_network(traced_network(network), 0)
    form = lowered(looped, Lowering.DILATED)
    calls = [str(node.target) for node in form.graph.graph.nodes if node.op == "call_module"]
    assert calls == ["stem", "conv", "conv_dilated_2x2", "conv_dilated_2x2_"]
    assert [original_module(form.graph, path) for path in calls] == ["stem", "conv", "conv_dilated_2x2", "conv"]
    frame = torch.randn(2, 3, 8, 8)
    top, left, bottom, right = looped.border
    planes = nn.functional.pad(frame, (left, right, top, bottom))
    torch.testing.assert_close(form.graph(planes), network(frame))
    bundle = export(
        network,
        tmp_path / "bundle",
        size=SIZE,
        outputs="logits",
        precisions="int8",
        keep_fp32=("conv",),
        calibration_frames=FRAMES,
        calibration="minmax",
        levels=0,
        lowerings="dilated",
    )
    assert bundle.manifest.calibration is not None
    assert set(bundle.manifest.calibration.ranges) == {"stem", "conv", "conv_dilated_2x2"}
    assert bundle.manifest.trunk().convolutions[Precision.INT8] == {Precision.FP32: 2, Precision.INT8: 2}
    with Session.open(bundle) as full, Session.open(bundle, precision=Precision.INT8) as low:
        expected, logits = full.predict(FRAMES[0]), low.predict(FRAMES[0])
    assert np.abs(logits - expected).max() <= 0.1 * np.abs(expected).max()


def test_a_stage_has_parts_alone() -> None:
    stage = nn.Sequential(nn.ReLU())
    with pytest.raises(ValueError, match="'0' is not a valid Part"):
        identities_from_scopes(ir.from_onnx_text('<ir_version: 10, opset_import: ["": 18]> g () => () {}'), stage)


class Attention(nn.Module):
    """PyTorch's own layer that consists of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.encoder = nn.Conv2d(3, 8, 1), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.encoder(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(-1, 8, 4, 4)


def test_a_layer_of_layers_is_one_module() -> None:
    graph = traced_network(Attention().eval()).graph
    stage = Trunk(graph, (), OutputKind.LABELS).eval()
    windows = {"windows": torch.zeros(2, 3, 4, 4)}
    model = onnx_from_torch(stage, windows, output_name="labels", opset=18, batch="phases")
    assert {module_of(node) for node in model.graph} == {"", "conv", "encoder"}
    assert {part_of(node) for node in model.graph if node.op_type == "ArgMax"} == {Part.PREDICTIONS}
    assert any(module_of(node) == "encoder" for node in model.graph if node.op_type == "MatMul")
