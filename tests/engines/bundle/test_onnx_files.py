"""ONNX files of others, read without ``onnx``: what they point to and call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from engines import Bundle
from engines.bundle.onnx_files import check_graph
from engines.errors import BundleError
from tests.converters.verification.faults import sealed

WEIGHTS, SIZE = "weights.bin", 64


def external(location: str = WEIGHTS, **entries: object) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": 0, "length": 16, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def inline() -> TensorProto:
    return numpy_helper.from_array(np.ones(4, np.float32), "w")


def model_of(*tensors: TensorProto, nodes: list[onnx.NodeProto] | None = None) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes or [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        initializer=tensors,
    )
    return helper.make_model(graph)


def nested(depth: int, tensor: TensorProto) -> onnx.ModelProto:
    graph = helper.make_graph([], "innermost", [], [], initializer=[tensor])
    for _ in range(depth - 1):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], "g", [], [])
    return helper.make_model(graph)


def check(model: onnx.ModelProto, name: str = "trunk.onnx") -> None:
    check_graph(model.SerializeToString(), name, WEIGHTS, SIZE)


def test_graphs_of_the_exporter_pass(exported: Bundle) -> None:
    manifest = exported.manifest
    for name in manifest.graphs:
        size = manifest.files[manifest.weights].size
        check_graph(exported.content(name), name, manifest.weights, size)


@pytest.mark.parametrize(
    "model",
    [
        model_of(inline()),
        model_of(external()),
        model_of(external(offset=48)),
        nested(4, external()),
        model_of(nodes=[helper.make_node("Constant", [], ["y"], value=external())]),
    ],
)
def test_what_is_allowed(model: onnx.ModelProto) -> None:
    check(model)


def with_function(model: onnx.ModelProto) -> onnx.ModelProto:
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("own", "F", ["a"], ["b"], [node], model.opset_import))
    return model


def twice(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.initializer[0].external_data.add(key="location", value="reports/x.bin")
    return model


ELSEWHERE = r"lies in .*; a graph may point to weights\.bin alone"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (model_of(external("reports/x.bin")), ELSEWHERE),
        (model_of(external("../weights.bin")), ELSEWHERE),
        (model_of(external("/etc/passwd")), ELSEWHERE),
        (model_of(external("a/../weights.bin")), ELSEWHERE),
        (model_of(external("")), ELSEWHERE),
        (nested(3, external("reports/x.bin")), ELSEWHERE),
        (model_of(nodes=[helper.make_node("Constant", [], ["y"], value=external("x.bin"))]), ELSEWHERE),
        (twice(model_of(external())), "says twice where its data is"),
        (model_of(external(offset=49)), "behind the end of weights.bin"),
        (model_of(external(offset=-1)), "has no place in weights.bin"),
        (model_of(external(offset="1" * 400)), "has no place in weights.bin"),
        (model_of(external(basepath="/etc")), r"unknown external data \['basepath'\]"),
        (with_function(model_of(inline())), "has functions of its own"),
        (nested(5, inline()), "more than 4 deep"),
        (onnx.ModelProto(), "it has 0 graphs"),
    ],
)
def test_what_is_refused(model: onnx.ModelProto, message: str) -> None:
    with pytest.raises(BundleError, match=f"trunk.onnx.*{message}"):
        check(model)


def test_weights_lie_beside_the_graph() -> None:
    check_graph(model_of(external("w.bin")).SerializeToString(), "graphs/trunk.onnx", "graphs/w.bin", SIZE)
    with pytest.raises(BundleError, match=r"may point to w\.bin alone"):
        check_graph(model_of(external("w.bin")).SerializeToString(), "graphs/trunk.onnx", "w.bin", SIZE)


@given(content=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with suppress(BundleError):
        check_graph(content, "trunk.onnx", WEIGHTS, SIZE)


@given(place=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 300))
@settings(max_examples=300)
def test_a_damaged_graph_is_read_or_refused(place: int, value: int, cut: int) -> None:
    content = bytearray(nested(3, external()).SerializeToString())
    content[place % len(content)] = value
    with suppress(BundleError):
        check_graph(bytes(content[: len(content) - cut]), "trunk.onnx", WEIGHTS, SIZE)


def pointed_elsewhere(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "reports/x.bin"


def renamed(bundle: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> Bundle:
    model = onnx.load(bundle / name, load_external_data=False)
    change(model)
    (bundle / name).write_bytes(model.SerializeToString())
    return sealed(bundle)


def test_weights_outside_the_hashes_are_refused_by_every_reader(bundle: Path) -> None:
    """The file is right when it is planted, and altered later: no hash is of it."""
    (bundle / "reports").mkdir()
    (bundle / "reports" / "x.bin").write_bytes((bundle / "weights.bin").read_bytes())
    opened = renamed(bundle, "trunk.onnx", pointed_elsewhere)
    with pytest.raises(BundleError, match=ELSEWHERE):
        opened.file("trunk.onnx")
