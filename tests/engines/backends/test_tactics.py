"""Engines that are built again: tactics recorded and replayed, and what an engine is known by."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import engines.backends.tensorrt.builder as builder_module
from engines import Bundle, Precision, Schedule, Session, build_engine
from engines.backends.tensorrt.inspection import layers_from_inspection
from engines.backends.tensorrt.outputs import outputs_of_executor
from engines.backends.tensorrt.records import check_reproduced
from engines.backends.tensorrt.settings import BuildOptions
from engines.backends.tensorrt.tactics import TacticCache, check_editable, check_replayed
from engines.building import EngineBuild
from engines.bundle.records import (
    BuildRecord,
    EngineLayer,
    EngineLayers,
    Fingerprint,
    OutputDigest,
    Tactic,
    build_record_from_file,
    json_from_record,
    layers_sha256,
)
from engines.devices.gpus import Gpu
from engines.errors import BackendError, BundleError, CheckFailed, InputError
from tests.conftest import Cli
from tests.engines.backends.timing_tensorrt import APIS, KERNELS, Cache, Key, Settings, Timing, Value, key_of, tactic_of
from tests.engines.backends.timing_tensorrt import tensorrt_of as make_tensorrt
from tests.engines.executors.host_device import HostDevice
from tests.engines.executors.host_engine import opener
from tests.records import build_record

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="not run: tensorrt_rtx is not installed"
)
EDITABLE = {"EDITABLE_TIMING_CACHE", "DISABLE_COMPILATION_CACHE"}
STRICT = {*EDITABLE, "ERROR_ON_TIMING_CACHE_MISS"}
CONVOLUTIONS = 21
"""Of the small bundle's trunk."""


@pytest.fixture
def timing() -> Timing:
    return Timing()


@pytest.fixture
def tensorrt_of(monkeypatch: pytest.MonkeyPatch, timing: Timing) -> Callable[[str], None]:
    """Puts a TensorRT of a version in the place of the one that is imported."""
    pytest.importorskip("tensorrt_rtx", reason="not run: tensorrt_rtx is not installed")
    return lambda version: monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(version, timing))


@pytest.fixture
def tensorrt(tensorrt_of: Callable[[str], None]) -> None:
    tensorrt_of("10.13.3.9")


def built(bundle: Path, **asked: Any) -> EngineBuild:
    return build_engine(bundle, "tensorrt", **asked)


def saved(path: Path, record: BuildRecord) -> Path:
    path.write_bytes(json_from_record(record))
    return path


def chosen(tactics: list[Tactic]) -> dict[str, str]:
    return {tactic.key: tactic.tactic for tactic in tactics}


def contents(bundle: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


@pytest.mark.parametrize("version", ["10.13.3.9", "10.16.1.11", "11.4.0.106"])
def test_an_engine_is_built_again_of_its_record(
    tensorrt_of: Callable[[str], None], timing: Timing, bundle: Path, tmp_path: Path, version: str
) -> None:
    tensorrt_of(version)
    first = built(bundle, record_tactics=True)
    assert first.record.tactics is not None
    assert len(first.record.tactics.trunk) == CONVOLUTIONS
    assert chosen(first.record.tactics.trunk)[key_of("conv1/Conv")] == f"0x{tactic_of('conv1/Conv', 1):016x}"
    assert len(first.record.tactics.prepare) == 1
    assert timing.builds == [EDITABLE, EDITABLE]
    # The cache of prepare.onnx is a fresh one too.
    assert timing.started_with == [0, 0]
    # Another build takes other kernels.
    other = built(bundle, record_tactics=True, force=True)
    assert other.record.tactics is not None
    assert not chosen(first.record.tactics.trunk).items() & chosen(other.record.tactics.trunk).items()
    assert other.record.plan_sha256 != first.record.plan_sha256

    timing.builds.clear()
    timing.started_with.clear()
    again = built(bundle, reproduce=saved(tmp_path / "first.json", first.record))
    assert not again.cached
    assert again.record.tactics == first.record.tactics
    assert again.record.plan_sha256 == first.record.plan_sha256
    assert again.record.prepare_plan_sha256 == first.record.prepare_plan_sha256
    assert timing.builds == [EDITABLE, STRICT, EDITABLE, STRICT]
    assert timing.started_with == [0, CONVOLUTIONS, 0, 1]
    assert Bundle.open(bundle).engines == [again.engine]


def test_an_engine_of_the_recorded_tactics_is_the_answer(tensorrt: None, timing: Timing, bundle: Path) -> None:
    plain = built(bundle)
    assert plain.record.tactics is None
    assert timing.builds == [set(), set()]
    first = built(bundle, record_tactics=True)
    assert not first.cached
    assert built(bundle, record_tactics=True).cached
    # What is there has its tactics in its record, which does no harm.
    assert built(bundle).cached
    assert built(bundle, reproduce=first.record).cached
    assert built(bundle, record_tactics=True, reproduce=first.record).cached
    tactics = first.record.tactics
    assert tactics is not None
    later = msgspec.structs.replace(
        first.record,
        tactics=msgspec.structs.replace(
            tactics, trunk=[msgspec.structs.replace(tactic, ms=99.0) for tactic in tactics.trunk]
        ),
    )
    assert built(bundle, reproduce=later).cached
    timing.prefers = lambda layer: 4
    other = built(bundle, record_tactics=True, force=True)
    assert not built(bundle, reproduce=first.record).cached
    assert other.record.tactics != tactics


def refused(bundle: Path, kind: type[Exception], **asked: Any) -> str:
    """What a build that fails says; the bundle is as it was."""
    before = contents(bundle)
    with pytest.raises(kind) as caught:
        built(bundle, **asked)
    assert contents(bundle) == before
    return str(caught.value)


def test_a_miss_that_tensorrt_reports(tensorrt: None, timing: Timing, bundle: Path) -> None:
    first = built(bundle, record_tactics=True)
    timing.extra = lambda number: ["new layer"]
    assert refused(bundle, BackendError, reproduce=first.record, force=True) == (
        "tensorrt 10.13.3.9 cannot build trunk.onnx with the recorded tactics alone: Timing cache miss for new layer"
    )


def test_a_miss_that_tensorrt_lets_pass(tensorrt: None, timing: Timing, bundle: Path) -> None:
    first = built(bundle, record_tactics=True)
    timing.extra = lambda number: [f"new {index}" for index in range(4)]
    timing.lets_misses_pass = True
    keys = sorted(key_of(f"new {index}") for index in range(4))
    assert refused(bundle, CheckFailed, reproduce=first.record, force=True) == (
        "trunk.onnx was not built as recorded; of its tactics (21 in the record) 4 are not in the record: "
        f"{', '.join(keys[:3])}, ..."
    )


def test_a_kernel_that_tensorrt_exchanges(tensorrt: None, timing: Timing, bundle: Path) -> None:
    timing.prefers = lambda layer: 0
    first = built(bundle, record_tactics=True)
    timing.prefers, timing.ignores_the_cache_for = (lambda layer: 1), ("conv1/Conv", "head/Conv")
    said = "; of its tactics (21 in the record) 2 are of another kernel: "
    shown = [
        f"{key_of(layer)} (0x{tactic_of(layer, 0):016x}, here 0x{tactic_of(layer, 1):016x})"
        for layer in sorted(timing.ignores_the_cache_for, key=key_of)
    ]
    assert refused(bundle, CheckFailed, reproduce=first.record, force=True) == (
        f"trunk.onnx was not built as recorded{said}{', '.join(shown)}"
    )


def test_a_key_that_the_build_never_comes_to(tensorrt: None, timing: Timing, bundle: Path) -> None:
    timing.extra = lambda number: ["fused"] if number == 1 else []
    first = built(bundle, record_tactics=True)
    timing.builds.clear()
    assert refused(bundle, CheckFailed, reproduce=first.record, force=True) == (
        "trunk.onnx was not built as recorded; of its tactics (22 in the record) 1 have keys that this build has not: "
        f"{key_of('fused')}"
    )
    assert len(timing.builds) == 1


def test_a_problem_of_the_first_build_alone_does_no_harm(tensorrt: None, timing: Timing, bundle: Path) -> None:
    first = built(bundle, record_tactics=True)
    timing.extra = lambda number: ["only the first time"] if number % 2 else []
    again = built(bundle, reproduce=first.record, force=True)
    assert again.record.tactics == first.record.tactics
    assert timing.started_with[2:] == [0, CONVOLUTIONS, 0, 1]


def test_a_kernel_that_this_tensorrt_does_not_have(tensorrt: None, bundle: Path) -> None:
    first = built(bundle, record_tactics=True)
    assert first.record.tactics is not None
    spoilt = [msgspec.structs.replace(tactic, tactic="0x00000000000000ff") for tactic in first.record.tactics.trunk]
    tactics = msgspec.structs.replace(first.record.tactics, trunk=spoilt)
    record = msgspec.structs.replace(first.record, tactics=tactics)
    assert "alone: No kernel 0x00000000000000ff for conv1/Conv" in refused(bundle, BackendError, reproduce=record)
    invalid = [msgspec.structs.replace(tactic, tactic="0x" + 16 * "f") for tactic in first.record.tactics.trunk[:1]]
    tactics = msgspec.structs.replace(tactics, trunk=[*invalid, *first.record.tactics.trunk[1:]])
    record = msgspec.structs.replace(first.record, tactics=tactics)
    assert refused(bundle, CheckFailed, reproduce=record).endswith(
        f"1 are refused by TensorRT: {first.record.tactics.trunk[0].key}"
    )


def test_the_record_of_another_build_is_refused_before_the_build(
    tensorrt: None, timing: Timing, bundle: Path, tmp_path: Path
) -> None:
    record = built(bundle, record_tactics=True).record
    timing.builds.clear()
    graph, weights = record.graph_sha256[:16], record.weights_sha256[:16]
    for changes, said in (
        ({"version": "10.16.1.11"}, "version is 10.16.1.11 there and 10.13.3.9 here"),
        ({"backend": "tensorrt-rtx"}, "backend is tensorrt-rtx there and tensorrt here"),
        ({"precision": Precision.FP16}, "precision is fp16 there and fp32 here"),
        ({"graph_sha256": "1" * 64}, f"graph_sha256 is 1111111111111111... there and {graph}... here"),
        (
            {"weights_sha256": "2" * 64, "sub_batch": 2},
            f"sub_batch is 2 there and 1 here; weights_sha256 is 2222222222222222... there and {weights}... here",
        ),
        (
            {"device": msgspec.structs.replace(record.device, gpu="Orin", compute_capability="8.7")},
            "device.gpu is Orin there and none here; device.compute_capability is 8.7 there and none here",
        ),
        (
            {"flags": {**record.flags, "max_aux_streams": 0, "pool_limits": {"workspace": 512}}},
            "flags.max_aux_streams is 0 there and none here; flags.pool_limits.workspace is 512 there and none here",
        ),
    ):
        path = saved(tmp_path / "other.json", msgspec.structs.replace(record, **changes))
        assert refused(bundle, InputError, reproduce=path) == (
            f"{path} is the record of another build, and cannot be built again here: {said}"
        )
    # What cannot change an engine.
    harmless = msgspec.structs.replace(
        record, python="3.13.1", smp_deploy="9", graph="renamed.onnx", prepare="p.onnx", build_s=1e3, target="rtx"
    )
    assert built(bundle, reproduce=harmless).cached
    assert timing.builds == []


def test_files_that_are_no_record_with_tactics(tensorrt: None, bundle: Path, tmp_path: Path) -> None:
    record = built(bundle).record
    path = saved(tmp_path / "plain.json", record)
    assert refused(bundle, InputError, reproduce=path) == (
        f"{path} has no tactics to build with: make it with record_tactics=True"
    )
    assert refused(bundle, InputError, reproduce=record).startswith("the record has no tactics")
    path.write_text('{"version": 1}')
    assert f"{path} is no record of its kind: " in refused(bundle, BundleError, reproduce=path)
    path.unlink()
    assert refused(bundle, InputError, reproduce=path) == (
        f"cannot read the build record {path}: No such file or directory"
    )
    os.mkfifo(path)
    assert refused(bundle, InputError, reproduce=path) == f"{path} is a pipe, where a file is needed"
    path.unlink()
    with path.open("wb") as stream:
        stream.truncate(2**40)
    assert refused(bundle, InputError, reproduce=path) == (
        f"{path} is larger than 32 MiB, the most that is read of such a file"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"trunk": [["0x1", "0x1", 1.0]]},
            r"matching regex '\^0x\[0-9a-f\]\{16\}\$' - at `\$\.tactics\.trunk\[0\]\[1\]`",
        ),
        ({"trunk": [["0x\u202e", f"0x{1:016x}", 1.0]]}, "matching regex"),
        ({"trunk": [["0x1", f"0x{1:016x}", -1.0]]}, "`float` >= 0"),
        ({"trunk": [[key, f"0x{1:016x}", 1.0] for key in ("0x2", "0x1")]}, "not sorted by key, or have a key twice"),
        ({"trunk": [["0x1", f"0x{1:016x}", 1.0]] * 2}, "not sorted by key, or have a key twice"),
        ({"trunk": [["0x1", f"0x{1:016x}", 1.0]] * (2**16 + 1)}, "length <= 65536"),
    ],
)
def test_damaged_tactics_are_one_message(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    document = json.loads(json_from_record(build_record()))
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps({**document, "tactics": {"trunk": [], "prepare": [], **changes}}))
    with pytest.raises(BundleError, match=said):
        build_record_from_file(path)


def test_a_hash_that_is_not_that_of_the_layers(tmp_path: Path) -> None:
    layers = {"sha256": "0" * 64, "layers": [["a", "b", "c", [], []]]}
    document = json.loads(json_from_record(build_record()))
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps({**document, "fingerprint": {**document["fingerprint"], "trunk": layers}}))
    with pytest.raises(BundleError, match="the hash of the layers is not that of the layers"):
        build_record_from_file(path)


@needs_rtx
@pytest.mark.parametrize("option", [["--record-tactics"], ["--reproduce", "RECORD"]])
def test_rtx_has_no_tactics(cli: Cli, bundle: Path, tmp_path: Path, option: list[str]) -> None:
    record = saved(tmp_path / "record.json", build_record())
    before = contents(bundle)
    words = [str(record) if word == "RECORD" else word for word in option]
    result = cli("build-engine", bundle, "--flavour", "tensorrt-rtx", *words)
    assert result.returncode == 2
    assert result.stderr == (
        "smp-deploy: TensorRT-RTX times no kernels when it builds, so there are no tactics to record or to build with; "
        "leave --record-tactics and --reproduce out\n"
    )
    assert contents(bundle) == before


@needs_rtx
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_rtx_does_with_a_timing_cache() -> None:
    """It builds and leaves the cache empty. No cache takes a key that it does not have: why a replay builds twice."""
    import tensorrt_rtx as trt

    from engines.backends.tensorrt.logger import BuildLog, trt_logger

    builder = trt.Builder(trt_logger(trt, BuildLog()))
    settings = builder.create_builder_config()
    check_editable(trt)
    assert TacticCache(trt, settings).tactics() == ()
    cache, key = settings.get_timing_cache(), trt.TimingCacheKey.parse("0x" + 16 * "ab")
    assert str(key) == "0x" + 16 * "ab"
    assert cache.query(key).tacticHash == 2**64 - 1
    assert not cache.update(key, trt.TimingCacheValue(5, 1.0))


def test_a_tensorrt_that_is_too_old(tensorrt_of: Callable[[str], None], timing: Timing, bundle: Path) -> None:
    tensorrt_of("10.3.0")
    said = (
        "TensorRT 10.3.0 cannot be asked for its tactics: that takes 10.13 or later; leave record_tactics= and "
        "reproduce= out"
    )
    assert refused(bundle, BackendError, record_tactics=True) == said
    assert refused(bundle, BackendError, reproduce=build_record()) == said
    assert timing.builds == []
    assert built(bundle).record.tactics is None


def test_a_timing_cache_that_is_kept_saves_the_first_build(
    tensorrt: None, timing: Timing, bundle: Path, tmp_path: Path
) -> None:
    options = BuildOptions(timing_cache=tmp_path / "kept.cache")
    first = built(bundle, record_tactics=True, options=options)
    assert first.record.timing_cache
    _, entries = json.loads(options.timing_cache.read_bytes())
    assert len(entries) == CONVOLUTIONS + 1
    said = refused(bundle, InputError, record_tactics=True, force=True, options=options)
    assert (
        said == f"tactics are recorded with a new timing cache, but {options.timing_cache} is there; name another file"
    )
    # Another device of the same kind, whose own times would choose other kernels.
    timing.device, timing.prefers = "gpu 1", lambda layer: KERNELS - 1
    timing.builds.clear()
    held = options.timing_cache.read_bytes()
    again = built(bundle, reproduce=first.record, force=True, options=options)
    assert again.record.tactics == first.record.tactics
    assert again.record.plan_sha256 == first.record.plan_sha256
    assert timing.builds == [STRICT, STRICT]
    assert options.timing_cache.read_bytes() == held
    options.timing_cache.unlink()
    said = refused(bundle, InputError, reproduce=first.record, force=True, options=options)
    assert said == f"cannot read the timing cache {options.timing_cache}: No such file or directory"
    options.timing_cache.write_bytes(b"junk")
    said = refused(bundle, CheckFailed, reproduce=first.record, force=True, options=options)
    assert "21 have keys that this build has not: " in said


def test_a_tactic_that_tensorrt_does_not_name() -> None:
    class Unnamed(Cache):
        def query(self, key: Key) -> Value:
            return Value(2**64 - 1, -1.0)

    settings = Settings(None, Timing())
    trt = type("Trt", (), {"__version__": "11.0.1", "BuilderFlag": FLAGS})
    held = TacticCache(trt, settings)
    settings.set_timing_cache(Unnamed("gpu 0", {key_of("a"): (1, 1.0)}), True)
    with pytest.raises(BackendError, match=rf"TensorRT 11.0.1 names no tactic of {key_of('a')}: it cannot be recorded"):
        held.tactics()


class FLAGS:
    """Names alone."""

    EDITABLE_TIMING_CACHE = type("Flag", (), {"name": "EDITABLE_TIMING_CACHE"})
    DISABLE_COMPILATION_CACHE = type("Flag", (), {"name": "DISABLE_COMPILATION_CACHE"})


def test_replayed_tactics_are_compared_by_kernel_and_not_by_time() -> None:
    first = Tactic(key="0x1", tactic=f"0x{1:016x}", ms=1.0)
    check_replayed([first], [msgspec.structs.replace(first, ms=2.0)], "x")
    with pytest.raises(CheckFailed, match=r"\(1 in the record\) 1 are missing: 0x1$"):
        check_replayed([first], [], "x")


def test_a_replay_is_one_rising_figure(tensorrt: None, bundle: Path) -> None:
    from engines.backends.tensorrt.builder import BuildListener

    first = built(bundle, record_tactics=True)
    said: dict[str, list[int]] = {}

    def listener(graph: str) -> BuildListener:
        return BuildListener(lambda percent, _: said.setdefault(graph, []).append(percent))

    built(bundle, reproduce=first.record, force=True, listener=listener)
    trunk = said["trunk.onnx"]
    assert trunk == sorted(set(trunk))
    assert trunk[-1] == 100
    assert any(percent < 50 for percent in trunk)
    assert any(50 < percent < 100 for percent in trunk)


def test_layers_are_part_of_the_comparison(
    tensorrt: None, timing: Timing, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder_module, "gpus", lambda: (Gpu("a GPU", "9.0"),))
    first = built(bundle, record_tactics=True)
    layers = first.record.fingerprint.trunk
    assert isinstance(layers, EngineLayers)
    assert len(layers.layers) == CONVOLUTIONS
    assert layers.layers[0].inputs == ("Row major linear FP32 1x8",)
    assert first.record.fingerprint.outputs == "not run: there is no GPU"
    again = built(bundle, reproduce=first.record, force=True)
    assert again.record.fingerprint == first.record.fingerprint
    timing.layout = "Channel major FP32"
    assert refused(bundle, CheckFailed, reproduce=first.record, force=True) == (
        "the engine of trunk has not the layers that the record says; 21 are others: conv1/Conv; layer1.0.conv1/Conv; "
        "layer1.0.conv2/Conv; layer1.1.conv1/Conv; layer1.1.conv2/Conv; and 16 more"
    )


def test_without_a_gpu_the_fingerprint_says_so(tensorrt: None, bundle: Path) -> None:
    assert built(bundle).record.fingerprint == Fingerprint(
        trunk="not read: there is no GPU", prepare="not read: there is no GPU", outputs="not run: there is no GPU"
    )


def test_outputs_are_part_of_the_comparison() -> None:
    def record(outputs: list[OutputDigest] | str) -> BuildRecord:
        return build_record(fingerprint=msgspec.structs.replace(build_record().fingerprint, outputs=outputs))

    first = OutputDigest(frame="a.npy", frame_sha256="1" * 64, output_sha256="2" * 64)
    other = msgspec.structs.replace(first, output_sha256="3" * 64)
    check_reproduced(record([first]), record([first]), "r.json")
    check_reproduced(record([first]), record("not run: there is no GPU"), "r.json")
    check_reproduced(record([first]), record([msgspec.structs.replace(other, frame_sha256="4" * 64)]), "r.json")
    with pytest.raises(CheckFailed, match=r"the engine does not give what r\.json says, for a\.npy"):
        check_reproduced(record([first]), record([other]), "r.json")


def test_the_digest_of_outputs_is_that_of_a_sessions_prediction(exported: Bundle) -> None:
    schedule = Schedule(2, 3)
    device = HostDevice()
    found = outputs_of_executor(exported, schedule, lambda: opener(device, exported)(schedule))
    case = exported.manifest.reference[0]
    image, _ = exported.reference_arrays(case)
    with Session.open(exported, schedule=schedule) as session:
        labels = session.predict(image)
    assert (labels.dtype, labels.shape) == (np.uint8, (64, 96))
    assert found[0] == OutputDigest(
        frame=case.frame,
        frame_sha256=exported.manifest.files[case.frame].sha256,
        output_sha256=hashlib.sha256(labels.tobytes()).hexdigest(),
    )
    assert len(found) == len(exported.manifest.reference)
    # All of it was given back.
    assert not device.handles


def test_an_engine_that_does_not_run_is_said_to(exported: Bundle) -> None:
    schedule = Schedule(2, 3)

    def opened() -> Any:
        raise BackendError("cuda-bindings is not installed")

    assert outputs_of_executor(exported, schedule, opened) == "not run: cuda-bindings is not installed"


def test_layers_of_an_inspectors_document() -> None:
    tensor = {"Name": "made up 1", "Dimensions": [4, 8, 16], "Format/Datatype": "Half"}
    entry = {
        "Name": "conv1",
        "LayerType": "CaskConvolution",
        "ParameterType": "Convolution",
        "Inputs": [tensor],
        "Outputs": [{**tensor, "Datatype": "ignored"}, "labels"],
        "TacticName": "sm80_xmma",
        "TacticValue": "0x1",
        "StreamId": 0,
    }
    found = layers_from_inspection(json.dumps({"Layers": [entry, {"Name": "copy"}]}))
    first = EngineLayer(
        name="conv1",
        kind="CaskConvolution Convolution",
        tactic="sm80_xmma 0x1",
        inputs=("Half 4x8x16",),
        outputs=("Half ignored 4x8x16", "labels"),
    )
    assert found.layers == [first, EngineLayer(name="copy", kind="", tactic="", inputs=(), outputs=())]
    text = '["conv1","CaskConvolution Convolution","sm80_xmma 0x1",["Half 4x8x16"],["Half ignored 4x8x16","labels"]]\n'
    assert layers_sha256([first]) == hashlib.sha256(text.encode()).hexdigest()
    assert found.sha256 == hashlib.sha256(f'{text}["copy","","",[],[]]\n'.encode()).hexdigest()


@pytest.mark.parametrize("version", [version for version in APIS if version != "10.3.0"])
def test_what_stands_in_has_the_names_of_the_api(version: str) -> None:
    api = json.loads(APIS[version].read_text(encoding="utf-8"))["api"]
    for owner, kind in (("ITimingCache", Cache), ("TimingCacheKey", Key), ("TimingCacheValue", Value(1, 1.0))):
        assert {name for name in dir(kind) if not name.startswith("_")} <= set(api[owner])
    assert set(api["ITimingCache"]) - set(dir(Cache)) == {"reset"}
    own = {
        "flags",
        "real",
        "timing",
        "cache",
        "set_flag",
        "create_timing_cache",
        "set_timing_cache",
        "get_timing_cache",
    }
    assert own - {"flags", "real", "timing", "cache"} <= set(api["IBuilderConfig"])
    assert set(api["BuilderFlag"]) >= STRICT
