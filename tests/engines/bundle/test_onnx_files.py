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


def number(value: int, more: int = 0) -> bytes:
    """As protobuf writes it, or with ``more`` bytes that add nothing."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(value & 0x7F)
    digits += [0] * more
    return bytes([*(digit | 0x80 for digit in digits[:-1]), digits[-1]])


def field(tag: bytes, content: bytes) -> bytes:
    return tag + number(len(content)) + content


FUNCTIONS = 25 << 3 | 2
"""The tag of a model's functions."""


def with_hidden_function(tag: bytes) -> bytes:
    """A graph that calls a function of its own, in a field whose tag is written in another way."""
    model = with_function(model_of(inline(), nodes=[helper.make_node("F", ["x"], ["y"], domain="own")]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    # The runtime may be older than the package.
    model.ir_version, model.opset_import[0].version = 9, 18
    (function,) = model.functions
    function.opset_import[0].version = 18
    del model.functions[:]
    return model.SerializeToString() + field(tag, function.SerializeToString())


CUT_TAG = number(FUNCTIONS | 1 << 32)


def test_a_runtime_cuts_tags_to_32_bits() -> None:
    """What must not be taken for an unknown field: ONNX Runtime calls the function."""
    import onnxruntime

    with pytest.raises(Exception, match="own") as without:
        onnxruntime.InferenceSession(with_hidden_function(number(99 << 3 | 2)), providers=["CPUExecutionProvider"])
    assert "not a registered" in str(without.value)
    session = onnxruntime.InferenceSession(with_hidden_function(CUT_TAG), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": np.arange(4, dtype=np.float32)})[0], np.arange(4))


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        (CUT_TAG, "is no ONNX file: a field of the number"),
        (number(FUNCTIONS | 1 << 63), "is no ONNX file: a field of the number"),
        (number(FUNCTIONS, more=1), "is no ONNX file: a number that is longer than it needs to be"),
        (number(2), "is no ONNX file: a field of the number 0"),
        (number(99 << 3 | 2), "a model has the field 99; an exported graph has none"),
    ],
)
def test_tags_have_one_form(tag: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        check_graph(model_of(inline()).SerializeToString() + field(tag, b""), "trunk.onnx", WEIGHTS, SIZE)


@pytest.mark.parametrize("content", [b"\x80\x00", b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01", b"\x80"])
def test_numbers_have_one_form(content: bytes) -> None:
    with pytest.raises(BundleError, match=r"is no ONNX file: (a number that is longer|it ends in the middle)"):
        check_graph(b"\x08" + content + model_of(inline()).SerializeToString() * (len(content) > 1), "a", WEIGHTS, SIZE)


def test_external_data_behind_a_cut_tag() -> None:
    entry = onnx.StringStringEntryProto(key="location", value="reports/x.bin").SerializeToString()
    hidden = inline().SerializeToString() + field(number(13 << 3 | 2 | 1 << 32), entry)
    graph = model_of(inline()).graph.SerializeToString() + field(number(5 << 3 | 2), hidden)
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.ClearField("graph")
    with pytest.raises(BundleError, match="a field of the number"):
        check_graph(model.SerializeToString() + field(number(7 << 3 | 2), graph), "trunk.onnx", WEIGHTS, SIZE)


def test_what_may_stand_once_is_not_merged() -> None:
    """Parsers merge a second tensor into the first one: its place would be of neither."""
    model = model_of(nodes=[helper.make_node("Constant", [], ["y"], value=external())])
    attribute = model.graph.node[0].attribute[0]
    twice = attribute.SerializeToString() + field(number(5 << 3 | 2), external(offset=32).SerializeToString())
    assert len(onnx.AttributeProto.FromString(twice).t.external_data) == 6
    node = onnx.NodeProto()
    node.CopyFrom(model.graph.node[0])
    node.ClearField("attribute")
    graph = field(number(1 << 3 | 2), node.SerializeToString() + field(number(5 << 3 | 2), twice))
    with pytest.raises(BundleError, match="an attribute has two values"):
        check_graph(field(number(7 << 3 | 2), graph), "trunk.onnx", WEIGHTS, SIZE)
    with pytest.raises(BundleError, match="it has 2 graphs"):
        check_graph(model_of(inline()).SerializeToString() * 2, "trunk.onnx", WEIGHTS, SIZE)


def test_operators_are_the_standards() -> None:
    """One of ONNX Runtime's own reads a file that it names."""
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context="/x")
    with pytest.raises(BundleError, match=r"trunk\.onnx has an operator of 'com\.microsoft'"):
        check(model_of(nodes=[node]))


def test_fields_are_counted() -> None:
    with pytest.raises(BundleError, match=r"trunk\.onnx has more than 200000 fields"):
        check_graph(b"\x08\x01" * (4 << 20), "trunk.onnx", WEIGHTS, SIZE)


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
