"""The block of ONNX Runtime's tensors, laid out by hand; and its copies between layouts against ONNX Runtime's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from converters.graphs.packing import packed_bytes

SIDE = 8
BYTES = 4 * SIDE * SIDE
"""Of one channel."""


def convolution(name: str, source: str, result: str, channels: tuple[int, int]) -> onnx.NodeProto:
    return helper.make_node(
        "Conv", [source, f"w{channels[0]}-{channels[1]}"], [result], name=name, pads=[1] * 4, kernel_shape=[3, 3]
    )


def model_of(nodes: list[onnx.NodeProto], inputs: dict[str, int], outputs: dict[str, int]) -> ir.Model:
    """Values are ``(batch, channels, 8, 8)``; weights are named after their channels."""

    def infos(values: dict[str, int]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, SIDE, SIDE])
            for name, channels in values.items()
        ]

    named = {name for node in nodes for name in node.input if name.startswith("w")}
    weights = []
    for name in sorted(named):
        read, made = (int(part) for part in name[1:].split("-"))
        weights.append(onnx.numpy_helper.from_array(np.zeros((made, read, 3, 3), np.float32), name))
    graph = helper.make_graph(nodes, "graph", infos(inputs), infos(outputs), weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


BLOCK = [
    convolution("conv1", "x", "a", (3, 16)),
    helper.make_node("Relu", ["a"], ["ra"]),
    convolution("conv2", "ra", "b", (16, 16)),
    helper.make_node("Relu", ["b"], ["rb"]),
    convolution("conv3", "rb", "c", (16, 16)),
    helper.make_node("Add", ["c", "ra"], ["s"]),
    helper.make_node("Relu", ["s"], ["rs"]),
    helper.make_node("Transpose", ["rs"], ["y"], perm=[0, 1, 3, 2]),
]


def test_convolutions_take_sums_and_activations_over() -> None:
    model = model_of(BLOCK, {"x": 3}, {"y": 16})
    # conv1 makes a tensor and conv2 another; conv3 adds to the first, and its plain copy goes where the second was.
    assert packed_bytes(model) == 2 * 16 * BYTES
    # As written, conv3 needs a third; ReLUs and the sum work in place.
    assert packed_bytes(model, optimized=False) == 3 * 16 * BYTES


DIFFERENCE = [*BLOCK[:-1], helper.make_node("Sub", ["rs", "ra"], ["y"])]
JOINED = [*BLOCK[:-1], helper.make_node("Concat", ["rs", "ra"], ["y"], axis=1)]


def test_a_tensor_that_is_read_again_is_not_replaced() -> None:
    # The sum is a third tensor; its plain copy lies where conv2's was, and that of conv1's where the sum was.
    assert packed_bytes(model_of(DIFFERENCE, {"x": 3}, {"y": 16})) == 3 * 16 * BYTES
    # Channels are joined in blocks: two of them, behind the sum, because conv2's place is too small.
    assert packed_bytes(model_of(JOINED, {"x": 3}, {"y": 32})) == 5 * 16 * BYTES


def test_channels_fill_blocks() -> None:
    nodes = [
        convolution("conv1", "x", "a", (3, 16)),
        convolution("head", "a", "b", (16, 5)),
        helper.make_node("Transpose", ["b"], ["y"], perm=[0, 1, 3, 2]),
    ]
    # The head makes 16 channels of its 5, while conv1's tensor is there; its plain copy of 5 comes later.
    assert packed_bytes(model_of(nodes, {"x": 3}, {"y": 5})) == 32 * BYTES
    assert packed_bytes(model_of(nodes, {"x": 3}, {"y": 5}), optimized=False) == (16 + 5) * BYTES


def test_tensors_take_the_smallest_gap() -> None:
    def joined(result: str, *sources: str) -> onnx.NodeProto:
        return helper.make_node("Concat", sources, [result], axis=1)

    nodes = [
        joined("a", "x", "x", "x"),  # 0 to 3
        joined("b", "x"),  # 3 to 4
        joined("c", "x", "x"),  # 4 to 6
        joined("d", "x"),  # 6 to 7
        joined("ac", "a", "c"),  # 7 to 12; then 0 to 3 and 4 to 6 are free
        joined("e", "x", "x"),  # 4 to 6, though it would fit at 0
        joined("f", "x", "x", "x"),  # 0 to 3
        joined("y", "b", "d", "ac", "e", "f"),
    ]
    assert packed_bytes(model_of(nodes, {"x": 1}, {"y": 12})) == 12 * BYTES


@pytest.mark.parametrize(("nodes", "channels", "copies"), [(BLOCK, 16, 1), (DIFFERENCE, 16, 2), (JOINED, 32, 1)])
def test_onnxruntime_does_so(nodes: list[onnx.NodeProto], channels: int, copies: int, tmp_path: Path) -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if "avx512f" not in flags:
        pytest.skip("not run: this processor has no blocks of 16 channels")
    model = model_of(nodes, {"x": 3}, {"y": channels})
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, ["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("Conv") == 3
    assert not {"Relu", "Add"} & set(kinds)
    assert kinds.count("ReorderOutput") == copies
