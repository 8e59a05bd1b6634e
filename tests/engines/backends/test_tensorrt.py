"""Engines: real builds with TensorRT-RTX, and the API of the other flavours."""

from __future__ import annotations

import ast
import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import engines.backends.tensorrt.builder as builder_module
from engines import Bundle, Precision, build_engine
from engines.backends.tensorrt.builder import BuildListener, engine_from_onnx
from engines.backends.tensorrt.flavours import PROPER, RTX
from engines.backends.tensorrt.limits import tensors_at
from engines.backends.tensorrt.logger import BuildLog, trt_logger
from engines.backends.tensorrt.settings import BuildConfig, BuildOptions, MemoryPool, settings_from_config
from engines.backends.tensorrt.timing import load_timing_cache, save_timing_cache
from engines.errors import BackendError, InputError, MissingDependency, NetworkError

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="not run: tensorrt_rtx is not installed"
)
RTX_FP32 = BuildConfig(Precision.FP32)
APIS = sorted((Path(__file__).parent / "tensorrt_api").glob("*.json"))


def fp32_graph(bundle: Bundle) -> Path:
    return bundle.file(bundle.trunk_graph(bundle.manifest.trunk(), Precision.FP32))


@needs_rtx
@pytest.mark.parametrize(("precision", "kind"), [(Precision.FP32, "FLOAT"), (Precision.FP16, "HALF")])
def test_an_engine_in_each_precision(exported: Bundle, precision: Precision, kind: str) -> None:
    config = BuildConfig(precision, sub_batch=4)
    built = engine_from_onnx(exported.file(exported.trunk_graph(exported.manifest.trunk(), precision)), RTX, config)
    assert built.precisions == {kind: 21}
    assert built.effective == "not read: there is no GPU" or built.effective == {kind: 21}
    assert built.input_shape == (4, 3, 67, 99)
    assert built.flavour is RTX
    assert len(built.plan) > 100_000


@needs_rtx
def test_the_whole_graph_and_prepare_parse_too(exported: Bundle) -> None:
    import tensorrt_rtx as trt

    for name, kind in (("model.onnx", trt.LayerType.CONVOLUTION), ("prepare.onnx", trt.LayerType.CAST)):
        logger = trt_logger(trt, BuildLog())
        builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        parsed = parser.parse_from_file(str(exported.path / name))
        assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
        layers = [network.get_layer(index).type for index in range(network.num_layers)]
        assert layers.count(kind) == {"model.onnx": 21, "prepare.onnx": 1}[name]


@needs_rtx
def test_an_fp32_graph_is_not_passed_off_as_fp16(exported: Bundle) -> None:
    config = BuildConfig(Precision.FP16)
    with pytest.raises(BackendError, match=r"was to be fp16, but its convolutions are \{'FLOAT': 21\}"):
        engine_from_onnx(fp32_graph(exported), RTX, config)


@needs_rtx
def test_junk_is_refused_with_tensorrts_words(tmp_path: Path) -> None:
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"junk" * 50)
    with pytest.raises(NetworkError, match=r"cannot parse junk.onnx: MODEL_DESERIALIZE_FAILED: \S+"):
        engine_from_onnx(path, RTX, BuildConfig(Precision.FP32))


@needs_rtx
def test_what_the_parser_refuses_is_named_by_its_layer(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu"), helper.make_node("Det", ["y"], ["z"], "a/b")]
    nodes[1].metadata_props.add(key="smp_deploy.module", value="head.volume")
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [2, 4, 4]), ("z", [2]))
    ]
    graph = helper.make_graph(nodes, "refused", ends[:1], ends[1:])
    path = tmp_path / "trunk.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    with pytest.raises(NetworkError) as raised:
        engine_from_onnx(path, RTX, BuildConfig(None))
    assert "cannot parse trunk.onnx: the operator Det of the node a/b, of the layer head.volume (" in str(raised.value)


@needs_rtx
def test_prepare_has_no_profile_and_no_convolutions(exported: Bundle) -> None:
    config = BuildConfig(None)
    built = engine_from_onnx(exported.path / "prepare.onnx", RTX, config)
    assert built.input_shape == (64, 96, 3)
    assert (built.precisions, built.effective) == ({}, "not read: the graph has no convolutions")
    assert len(built.plan) > 10_000


@needs_rtx
def test_progress_rises_to_a_hundred_and_the_log_is_handed_on(exported: Bundle) -> None:
    percents, severities = [], set()
    listener = BuildListener(lambda done, total: percents.append((done, total)), lambda kind, _: severities.add(kind))
    engine_from_onnx(fp32_graph(exported), RTX, RTX_FP32, listener)
    assert percents == sorted(set(percents))
    assert percents[-1] == (100, 100)
    assert len(percents) > 10
    assert severities >= {"INFO", "VERBOSE"}


@needs_rtx
@pytest.mark.parametrize("where", ["on_progress", "on_log"])
def test_a_listeners_exception_ends_the_build_and_comes_out(exported: Bundle, where: str) -> None:
    calls = []

    def fail(*arguments: object) -> None:
        calls.append(arguments)
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        engine_from_onnx(
            fp32_graph(exported),
            RTX,
            RTX_FP32,
            BuildListener(**{where: fail}),
        )
    assert len(calls) == 1


@needs_rtx
def test_an_interrupt_stops_the_build(exported: Bundle) -> None:
    percents = []

    def interrupt(percent: int, _: int) -> None:
        percents.append(percent)
        if len(percents) == 1:
            signal.raise_signal(signal.SIGINT)
            # The main thread takes the signal meanwhile.
            time.sleep(0.5)

    with pytest.raises(KeyboardInterrupt):
        engine_from_onnx(fp32_graph(exported), RTX, RTX_FP32, BuildListener(interrupt))
    assert len(percents) == 1
    # TensorRT is whole after it.
    assert engine_from_onnx(fp32_graph(exported), RTX, RTX_FP32).precisions == {"FLOAT": 21}


@needs_rtx
def test_options_reach_tensorrt() -> None:
    import tensorrt_rtx as trt

    options = BuildOptions(
        optimization_level=1,
        max_aux_streams=0,
        pool_limits={MemoryPool.WORKSPACE: 3 * 2**20, MemoryPool.TACTIC_SHARED_MEMORY: 2**14},
        version_compatible=True,
    )
    logger = trt_logger(trt, BuildLog())
    builder = trt.Builder(logger)
    settings = settings_from_config(trt, builder, BuildConfig(Precision.FP32, options=options), BuildLog())
    assert (settings.builder_optimization_level, settings.max_aux_streams) == (1, 0)
    assert settings.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 3 * 2**20
    assert settings.get_memory_pool_limit(trt.MemoryPoolType.TACTIC_SHARED_MEMORY) == 2**14
    assert settings.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    for precision in (*Precision, None):
        # TensorRT sets it by itself.
        settings = settings_from_config(trt, builder, BuildConfig(precision, options=options), BuildLog())
        assert settings.get_flag(trt.BuilderFlag.TF32) == (precision is Precision.TF32)
    assert settings.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


@needs_rtx
def test_what_tensorrt_ignores_is_refused() -> None:
    """In a process of its own: TensorRT complains through the process's first logger, which may be gone here."""
    script = (
        "import tensorrt_rtx as trt\n"
        "from engines.backends.tensorrt.logger import BuildLog, trt_logger\n"
        "from engines.backends.tensorrt.settings import BuildConfig, BuildOptions, HardwareCompatibility\n"
        "from engines.backends.tensorrt.settings import settings_from_config\n"
        "log = BuildLog()\n"
        "builder = trt.Builder(trt_logger(trt, log))\n"
        "options = BuildOptions(hardware_compatibility=HardwareCompatibility.AMPERE_PLUS)\n"
        "settings_from_config(trt, builder, BuildConfig(None, options=options), log)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "does not take hardware compatibility level ampere_plus" in result.stderr.splitlines()[-1]


@needs_rtx
def test_a_workspace_too_small_for_any_kernel(exported: Bundle) -> None:
    config = BuildConfig(Precision.FP32, options=BuildOptions(pool_limits={MemoryPool.WORKSPACE: 2**10}))
    with pytest.raises(BackendError, match=r"within workspace limit.*raise pool_limits= of workspace"):
        engine_from_onnx(fp32_graph(exported), RTX, config)


@needs_rtx
def test_a_tensor_too_large_is_named_before_the_build(exported: Bundle) -> None:
    config = replace(RTX_FP32, sub_batch=2**20)
    said = r"the output of layer layer4.0.conv1/Conv has 25769803776 elements \(16777216 x 64 x 4 x 6\)"
    with pytest.raises(BackendError, match=said):
        engine_from_onnx(fp32_graph(exported), RTX, config)


@needs_rtx
def test_shapes_at_the_largest_sub_batch_count_the_splits_inside(exported: Bundle) -> None:
    import tensorrt_rtx as trt

    logger = trt_logger(trt, BuildLog())
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(fp32_graph(exported)))
    tensors = dict(tensors_at(network, (4, 3, 67, 99)))
    assert tensors["conv1/Conv"] == (4, 8, 16, 24)
    # Three more splits of 2x2: 64 batch entries for each window.
    assert tensors["head/Conv"] == (4 * 64, 19, 2, 3)
    assert tuple(network.get_input(0).shape) == (-1, 3, 67, 99)


@needs_rtx
def test_the_timing_cache_that_rtx_has_no_use_for_is_not_touched(exported: Bundle, tmp_path: Path) -> None:
    """The deprecated calls would raise here: a warning is an error in tests."""
    path = tmp_path / "timing.cache"
    path.write_bytes(b"another's")
    engine_from_onnx(
        fp32_graph(exported),
        RTX,
        replace(RTX_FP32, options=BuildOptions(timing_cache=path)),
    )
    assert path.read_bytes() == b"another's"


@needs_rtx
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_timing_cache_is_kept_and_a_damaged_one_is_left_alone(tmp_path: Path) -> None:
    """TensorRT-RTX measures nothing, but reads and writes the files' format."""
    import tensorrt_rtx as trt

    logger = trt_logger(trt, BuildLog())
    builder = trt.Builder(logger)
    path = tmp_path / "timing.cache"
    for _ in range(2):
        settings = builder.create_builder_config()
        load_timing_cache(settings, path)
        save_timing_cache(settings, path)
        assert path.read_bytes()[:5] == b"ptrtd"
    path.write_bytes(b"junk" * 100)
    with pytest.raises(InputError, match=r"timing.cache \(400 bytes\) is damaged or of another TensorRT or GPU"):
        load_timing_cache(builder.create_builder_config(), path)
    assert path.read_bytes() == b"junk" * 100


def test_a_missing_flavour_names_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # None in sys.modules is Python's own way to say that a module cannot be imported.
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    with pytest.raises(MissingDependency, match=r"tensorrt is not installed; .*smp-deploy\[tensorrt\]"):
        engine_from_onnx(tmp_path, PROPER, BuildConfig(Precision.FP32))


def test_no_tensorrt_at_all_names_both(monkeypatch: pytest.MonkeyPatch, exported: Bundle) -> None:
    for flavour in (PROPER, RTX):
        monkeypatch.setitem(sys.modules, flavour.module, None)
    with pytest.raises(MissingDependency, match=r"TensorRT \(tensorrt or tensorrt_rtx\) is not installed; install it"):
        build_engine(exported)


# TensorRT's class of each variable in the package's sources, and of what methods give.
VARIABLES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parse_error": "ParserError",
    "profile": "IOptimizationProfile",
    "settings": "IBuilderConfig",
    "layer": "ILayer",
    "source": "ITensor",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "inspector": "EngineInspector",
    "context": "IExecutionContext",
    "runtime_config": "IRuntimeConfig",
    "cache": "ITimingCache",
    "empty": "ITimingCache",
}
# Attributes of this project's own objects, and of Python's, that have the name of one of TensorRT's.
OWN_ATTRIBUTES = {
    "builder.py: build.engine",
    "builder.py: config.precision",
    "builder.py: graph.name",
    "builder.py: layer.get_input(0).name",
    "builder.py: layer.get_output(0).dtype.name",
    "builder.py: parse_error.code().name",
    "builder.py: self.config.precision",
    "engine.py: np.dtype",
    "engine.py: spec.name",
    "logger.py: severity.name",
    "settings.py: config.precision",
    "settings.py: options.hardware_compatibility.name",
    "settings.py: options.max_aux_streams",
    "settings.py: self.max_aux_streams",
}
RESULTS = {"get_error": "ParserError", "get_output": "ITensor"}
PACKAGE = Path(builder_module.__file__).parent
# These speak of engines of a bundle, not of TensorRT's.
NO_TENSORRT = {"records.py", "machine.py", "targets.py", "trtexec.py"}
# Their engines are this project's, and of TensorRT they use the version alone.
OF_THE_BUNDLE = {"backend.py", "opening.py"}
# What is made by a call that not every flavour has.
FROM_OPTIONAL_CALLS = {"IRuntimeConfig"}


def attributes_of_sources() -> Iterator[tuple[str | None, str, str]]:
    """``(class, attribute, expression)`` of all attributes in the sources that use TensorRT.

    The class is that of TensorRT; ``"trt"`` is the module, ``None`` stands for an owner that is none of its variables.
    """
    for source in PACKAGE.glob("*.py"):
        if source.name in NO_TENSORRT:
            assert "trt." not in source.read_text(encoding="utf-8")
            continue
        if source.name in OF_THE_BUNDLE:
            continue
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                yield owner_of(node.value), node.attr, f"{source.name}: {ast.unparse(node)}"


def owner_of(owner: ast.expr) -> str | None:
    if isinstance(owner, ast.Name) and owner.id in (*VARIABLES, "trt"):
        return VARIABLES.get(owner.id, "trt")
    if isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name):
        variable = owner.attr.lstrip("_")
        if owner.value.id == "trt":
            return owner.attr
        if owner.value.id == "self" and variable in (*VARIABLES, "trt"):
            return VARIABLES.get(variable, "trt")
    if isinstance(owner, ast.Call) and isinstance(owner.func, ast.Attribute):
        return RESULTS.get(owner.func.attr)
    return None


def used_attributes() -> set[tuple[str, str]]:
    """``(class, attribute)`` of what the package asks of TensorRT."""
    return {(owner, name) for owner, name, _ in attributes_of_sources() if owner is not None}


def asked_attributes() -> set[tuple[str, str]]:
    """``(class, attribute)`` of what the package asks with ``hasattr`` before it is used."""
    asked = set()
    for source in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr":
                owner, name = node.args
                # self.trt is trt.
                variable = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                assert isinstance(name, ast.Constant)
                asked.add((VARIABLES.get(variable, variable), str(name.value)))
    return asked


def exists(api: dict[str, list[str]], owner: str, name: str) -> bool:
    return name in (api if owner == "trt" else api.get(owner, ()))


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
        ("IBuilderConfig", "progress_monitor"),
        ("ITimingCache", "serialize"),
        ("EngineInspector", "get_engine_information"),
        ("MemoryPoolType", "TACTIC_SHARED_MEMORY"),
        ("trt", "IProgressMonitor"),
        ("ICudaEngine", "get_tensor_location"),
        ("IExecutionContext", "execute_async_v3"),
        ("IExecutionContext", "update_device_memory_size_for_shapes"),
        ("IRuntimeConfig", "cuda_graph_strategy"),
        ("CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE"),
        ("TensorLocation", "DEVICE"),
    } <= used
    asked = asked_attributes()
    # Where a flavour lacks a class that was asked for, or what makes one, its attributes are never reached.
    unreached = {name for owner, name in asked if owner == "trt" and name not in api}
    unreached |= {name for name in FROM_OPTIONAL_CALLS if name not in api}
    missing = {
        (owner, name)
        for owner, name in used - asked
        if owner not in unreached and (owner, name) not in {("trt", name) for name in unreached}
        if not exists(api, owner, name)
    }
    assert missing == set()


def test_no_use_of_tensorrt_is_overlooked() -> None:
    """An attribute that TensorRT's classes have, of a variable that :data:`VARIABLES` does not know: renamed, say."""
    apis = [json.loads(path.read_text(encoding="utf-8"))["api"] for path in APIS]
    classes = {*VARIABLES.values(), *RESULTS.values()}
    members = {name for api in apis for kind in classes for name in api.get(kind, ())}
    unknown = {text for owner, name, text in attributes_of_sources() if owner is None and name in members}
    assert unknown == OWN_ATTRIBUTES


def test_what_is_asked_for_exists_somewhere() -> None:
    """A name that no flavour has would never be used, and nobody would notice."""
    apis = [json.loads(path.read_text(encoding="utf-8"))["api"] for path in APIS]
    asked = asked_attributes()
    assert asked >= {
        ("trt", "CudaGraphStrategy"),
        ("ICudaEngine", "create_runtime_config"),
        ("IRuntimeConfig", "cuda_graph_strategy"),
        ("IExecutionContext", "is_stream_capturable"),
    }
    assert {pair for pair in asked if not any(exists(api, *pair) for api in apis)} == set()


def test_the_apis_are_at_hand() -> None:
    assert len(APIS) == 5
