"""Engines: real builds with TensorRT-RTX, and the API of the other flavours."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path

import pytest

import engines.backends.tensorrt.builder as builder_module
from engines import Bundle, Flavour, Precision
from engines.backends.tensorrt.builder import BuildConfig, engine_from_onnx
from engines.errors import BackendError, MissingDependency

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="not run: tensorrt_rtx is not installed"
)
APIS = sorted((Path(__file__).parent / "tensorrt_api").glob("*.json"))


@needs_rtx
@pytest.mark.parametrize(("precision", "kind"), [(Precision.FP32, "FLOAT"), (Precision.FP16, "HALF")])
def test_an_engine_in_each_precision(exported: Bundle, precision: Precision, kind: str) -> None:
    config = BuildConfig(precision, sub_batch=4, flavour=Flavour.TENSORRT_RTX)
    built = engine_from_onnx(exported.trunk_graph(exported.manifest.trunk(), precision), config)
    assert built.precisions == {kind: 21}
    assert built.input_shape == (4, 3, 67, 99)
    assert built.flavour is Flavour.TENSORRT_RTX
    assert len(built.plan) > 100_000


@needs_rtx
def test_the_whole_graph_and_prepare_parse_too(exported: Bundle) -> None:
    import tensorrt_rtx as trt

    for name, kind in (("model.onnx", trt.LayerType.CONVOLUTION), ("prepare.onnx", trt.LayerType.CAST)):
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        parsed = parser.parse_from_file(str(exported.path / name))
        assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
        layers = [network.get_layer(index).type for index in range(network.num_layers)]
        assert layers.count(kind) == {"model.onnx": 21, "prepare.onnx": 1}[name]


@needs_rtx
def test_an_fp32_graph_is_not_passed_off_as_fp16(exported: Bundle) -> None:
    config = BuildConfig(Precision.FP16, flavour=Flavour.TENSORRT_RTX)
    with pytest.raises(BackendError, match=r"was to be fp16, but its convolutions are \{'FLOAT': 21\}"):
        engine_from_onnx(exported.trunk_graph(exported.manifest.trunk(), Precision.FP32), config)


@needs_rtx
def test_junk_is_refused_with_tensorrts_words(tmp_path: Path) -> None:
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"junk" * 50)
    with pytest.raises(BackendError, match=r"cannot parse junk.onnx: \S+"):
        engine_from_onnx(path, BuildConfig(Precision.FP32, flavour=Flavour.TENSORRT_RTX))


def test_a_missing_flavour_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # None in sys.modules is Python's own way to say that a module cannot be imported.
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(MissingDependency, match=r"tensorrt is not installed; .*smp-deploy\[tensorrt\]"):
        engine_from_onnx(tmp_path, BuildConfig(Precision.FP32, flavour=Flavour.TENSORRT))


# TensorRT's class of each variable in the builder's source, and of what methods give.
VARIABLES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "settings": "IBuilderConfig",
    "layer": "ILayer",
    "source": "ITensor",
}
RESULTS = {"get_error": "ParserError", "get_output": "ITensor"}


def used_attributes() -> set[tuple[str, str]]:
    """``(class, attribute)`` of what the builder asks of TensorRT, from its source; ``trt`` is the module."""
    used = set()
    for node in ast.walk(ast.parse(Path(builder_module.__file__).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        owner = node.value
        if isinstance(owner, ast.Name) and owner.id in (*VARIABLES, "trt"):
            used.add((VARIABLES.get(owner.id, "trt"), node.attr))
        elif isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name) and owner.value.id == "trt":
            used.add((owner.attr, node.attr))
        elif isinstance(owner, ast.Call) and isinstance(owner.func, ast.Attribute) and owner.func.attr in RESULTS:
            used.add((RESULTS[owner.func.attr], node.attr))
    return used


@pytest.mark.parametrize("path", APIS, ids=lambda path: path.stem)
def test_every_attribute_exists_in_every_flavour(path: Path) -> None:
    api = json.loads(path.read_text(encoding="utf-8"))["api"]
    # What every Python module and class has is not in the listings.
    used = {(owner, name) for owner, name in used_attributes() if not name.startswith("__")}
    assert {
        ("Builder", "create_network"),
        ("OnnxParser", "parse_from_file"),
        ("ParserError", "desc"),
        ("ITensor", "dtype"),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
        ("trt", "LayerType"),
    } <= used
    missing = {(owner, name) for owner, name in used if name not in (api if owner == "trt" else api.get(owner, ()))}
    assert missing == set()


def test_the_apis_are_at_hand() -> None:
    assert len(APIS) == 5
