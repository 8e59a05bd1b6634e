"""Packed files of real bundles: equal to the session's labels, valid, whole in themselves, and the same every time."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import converters
import smp_deploy
from converters.one_file import packing
from converters.one_file.packing import pack
from converters.one_file.record import METADATA_PREFIX, document_from_json, document_schema
from engines import Bundle, Schedule, Session
from engines.errors import BackendError, BundleError, CheckFailed, InputError, NetworkError, OutputError

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="not run: tensorrt_rtx is not installed"
)
SCHEDULES = [Schedule(0, 1), *(Schedule(levels, sub_batch) for levels in range(1, 6) for sub_batch in (1, 4))]


def stock(path: Path, *, as_written: bool = False) -> ort.InferenceSession:
    """As a program opens it that knows nothing of us."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if as_written:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def labelled(bundle: Bundle, frame: np.ndarray, schedule: Schedule | None = None) -> np.ndarray:
    with Session.open(bundle, schedule=schedule) as session:
        return session.predict(frame)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_schedule_gives_the_sessions_labels(
    exported: Bundle, frame: np.ndarray, tmp_path: Path, schedule: Schedule
) -> None:
    packed = pack(exported, tmp_path / "net.onnx", levels=schedule.levels, sub_batch=schedule.sub_batch)
    runtime = f"onnxruntime {ort.__version__}"
    assert packed.document.proof.detail == f"all 6144 labels equal the session's, on reference/frame-0.npy in {runtime}"
    assert packed.document.schedule == schedule
    (labels,) = stock(packed.path).run(None, {"frame": frame})
    expected = labelled(exported, frame, schedule)
    np.testing.assert_array_equal(labels, expected)
    assert len(np.unique(labels)) > 10, "labels that are all alike would hide a wrong merge"


@pytest.mark.parametrize("lowering", ["strided", "dilated"])
@pytest.mark.parametrize("loop", ["loop", "unrolled"])
def test_lowerings_and_a_last_sub_batch_that_is_not_full(
    exported: Bundle, frame: np.ndarray, tmp_path: Path, lowering: str, loop: str
) -> None:
    packed = pack(exported, tmp_path / "net.onnx", lowering=lowering, sub_batch=5, loop=loop)
    assert packed.document.iterations == 4
    (labels,) = stock(packed.path).run(None, {"frame": frame})
    np.testing.assert_array_equal(labels, labelled(exported, frame, packed.document.schedule))


@pytest.mark.parametrize(("levels", "sub_batch"), [(0, 1), (2, 4), (5, 3)])
def test_fp16(exported: Bundle, frame: np.ndarray, tmp_path: Path, levels: int, sub_batch: int) -> None:
    packed = pack(exported, tmp_path / "net.onnx", precision="fp16", levels=levels, sub_batch=sub_batch)
    assert packed.document.proof.detail.startswith("all 6144 labels equal the session's, on ")
    assert packed.document.proof.detail.endswith(", as written")
    (labels,) = stock(packed.path).run(None, {"frame": frame})
    with Session.open(exported, precision="fp16", schedule=packed.document.schedule) as session:
        assert (labels == session.predict(frame)).mean() >= 0.999
    halves = [t for t in _tensors(packed.path) if t.data_type == onnx.TensorProto.FLOAT16]
    assert sum(np.prod(t.dims) for t in halves) > 100_000


def test_int8_and_bf16(reduced: Bundle, tmp_path: Path) -> None:
    packed = pack(reduced, tmp_path / "int8.onnx", precision="int8", sub_batch=4)
    assert packed.document.proof.detail.startswith("all 6144 labels equal the session's, on ")
    assert {t.data_type for t in _tensors(packed.path)} >= {onnx.TensorProto.INT8}
    with pytest.raises(BackendError, match="ONNX Runtime has no bf16 convolution on the CPU"):
        pack(reduced, tmp_path / "bf16.onnx", precision="bf16")
    packed = pack(reduced, tmp_path / "bf16.onnx", precision="bf16", backend="onnxruntime-cuda", sub_batch=1)
    proof = packed.document.proof
    assert (proof.run, proof.detail[:50]) == (False, "ONNX Runtime has no bf16 convolution on the CPU; r")
    assert {t.data_type for t in _tensors(packed.path)} >= {onnx.TensorProto.BFLOAT16}


def _tensors(path: Path) -> list[onnx.TensorProto]:
    """All constants of graph and body."""
    graph = onnx.load(path).graph
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.name == "body"]
    return [held for part in (graph, *bodies) for held in part.initializer]


def test_weights_are_initializers_of_the_body_or_once_beside_all_copies(exported: Bundle, tmp_path: Path) -> None:
    looped = pack(exported, tmp_path / "loop.onnx")
    graph = onnx.load(looped.path).graph
    assert max(np.prod(held.dims) for held in graph.initializer) < 100
    weights = sum(np.prod(t.dims) for t in _tensors(looped.path))
    unrolled = pack(exported, tmp_path / "unrolled.onnx", loop="unrolled")
    nodes = [node.op_type for node in onnx.load(unrolled.path).graph.node]
    assert nodes.count("Loop") == 0
    assert nodes.count("Conv") == 16 * 21
    assert sum(np.prod(t.dims) for t in _tensors(unrolled.path)) < weights + 5000


def test_the_bytes_are_the_same_every_time(exported: Bundle, tmp_path: Path) -> None:
    first, second = (pack(exported, tmp_path / name / "net.onnx") for name in _folders(tmp_path, "a", "b"))
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.document_path.read_bytes() == second.document_path.read_bytes()


def _folders(parent: Path, *names: str) -> tuple[str, ...]:
    for name in names:
        (parent / name).mkdir()
    return names


def test_the_file_says_what_it_is_and_so_does_the_one_beside_it(exported: Bundle, tmp_path: Path) -> None:
    packed = pack(exported, tmp_path / "net.onnx", levels=3, sub_batch=4, label_type="int32", output_layout="nhwc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.json", "net.onnx"]
    content = packed.path.read_bytes()
    beside = json.loads((tmp_path / "net.json").read_text())
    assert beside["sha256"] == hashlib.sha256(content).hexdigest()
    assert (beside["file"], beside["file_size"]) == ("net.onnx", len(content))
    assert beside["bundle_sha256"] == hashlib.sha256((exported.path / "manifest.json").read_bytes()).hexdigest()
    assert beside["schedule"] == {"levels": 3, "sub_batch": 4, "lowering": "reshape"}
    assert (beside["iterations"], beside["loop"], beside["precision"], beside["opset"]) == (16, "loop", "fp32", 18)
    assert beside["classes"][0] == {"name": "road", "color": [128, 64, 128]}
    assert beside["normalization"]["std"] == [0.229, 0.224, 0.225]
    (taken,) = beside["input"]["tensors"]
    assert taken == {"name": "frame", "dtype": "uint8", "layout": "hwc", "shape": [64, 96, 3]}
    given = {"name": "labels", "dtype": "int32", "layout": "nhwc", "shape": [1, 64, 96, 1]}
    assert beside["output"] == {"kind": "labels", "tensor": given}
    session = stock(packed.path)
    properties = session.get_modelmeta().custom_metadata_map
    read = {name.removeprefix(METADATA_PREFIX): json.loads(value) for name, value in properties.items()}
    assert read == {name: value for name, value in beside.items() if name in read}
    assert beside.keys() - read.keys() == {"file", "sha256", "file_size", "proof"}
    assert [(end.name, list(end.shape)) for end in session.get_inputs()] == [("frame", [64, 96, 3])]
    assert [(end.name, list(end.shape), end.type) for end in session.get_outputs()] == [
        ("labels", [1, 64, 96, 1], "tensor(int32)")
    ]
    assert document_from_json((tmp_path / "net.json").read_bytes(), "net.json") == packed.document
    assert set(document_schema()["$defs"]["PackedDocument"]["required"]) == beside.keys()


TEN_LINES = """
import numpy as np, onnxruntime as ort, json
session = ort.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
names = [held["name"] for held in json.loads(about["smp_deploy.classes"])]
frame = np.load("frame.npy")
(labels,) = session.run(["labels"], {"frame": frame})
np.save("labels.npy", labels)
print(names[int(np.bincount(labels.ravel()).argmax())])
"""


def test_ten_lines_of_stock_onnxruntime_need_none_of_our_packages(
    exported: Bundle, frame: np.ndarray, tmp_path: Path
) -> None:
    pack(exported, tmp_path / "net.onnx")
    np.save(tmp_path / "frame.npy", frame)
    # What is installed beside the runtime is there, our packages are not.
    barred = (
        "import sys\nfor name in ('engines', 'converters', 'smp_deploy', 'onnx', 'torch'): sys.modules[name] = None\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-I", "-c", barred + TEN_LINES], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    expected = labelled(exported, frame)
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), expected)
    most = int(np.bincount(expected.ravel()).argmax())
    assert result.stdout == f"{exported.manifest.classes[most].name}\n"


@pytest.mark.parametrize(
    "options", [{"levels": 2}, {"levels": 4, "sub_batch": 4}, {"loop": "unrolled", "sub_batch": 4}]
)
def test_openvino_gives_the_same_labels(
    exported: Bundle, frame: np.ndarray, tmp_path: Path, options: dict[str, Any]
) -> None:
    openvino = pytest.importorskip("openvino", reason="not run: openvino is not installed")
    packed = pack(exported, tmp_path / "net.onnx", **options)
    core = openvino.Core()
    network = core.compile_model(core.read_model(packed.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    labels = network({"frame": frame})["labels"]
    # The last bits of logits differ, so two classes that are as good as equal may change places.
    assert (labels != labelled(exported, frame)).sum() <= 3


@needs_rtx
def test_tensorrt_rtx_builds_a_loop_with_offsets(exported: Bundle, tmp_path: Path) -> None:
    import tensorrt_rtx as trt

    packed = pack(exported, tmp_path / "net.onnx", precision="fp16", levels=4, sub_batch=4, input="nv12")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(packed.path.read_bytes()), [parser.get_error(k).desc() for k in range(parser.num_errors)]
    kinds = [network.get_layer(index).type for index in range(network.num_layers)]
    assert kinds.count(trt.LayerType.TRIP_LIMIT) == 1
    assert kinds.count(trt.LayerType.CONVOLUTION) == 21
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    assert plan is not None
    assert plan.nbytes > 100_000


@pytest.mark.parametrize("options", [{}, {"levels": 5, "sub_batch": 4}])
def test_opset_17_gives_the_same_labels(
    exported: Bundle, frame: np.ndarray, tmp_path: Path, options: dict[str, Any]
) -> None:
    packed = pack(exported, tmp_path / "net.onnx", opset=17, **options)
    model = onnx.load(packed.path)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert (model.ir_version, packed.document.opset) == (8, 17)
    (labels,) = stock(packed.path).run(None, {"frame": frame})
    np.testing.assert_array_equal(labels, labelled(exported, frame, packed.document.schedule))


def test_int8_of_opset_22_goes_down_to_17(reduced: Bundle, tmp_path: Path) -> None:
    packed = pack(reduced, tmp_path / "net.onnx", precision="int8", opset=17)
    assert packed.document.proof.detail.startswith("all 6144 labels equal the session's, on ")
    with pytest.raises(InputError, match="opset 17 has no convolution in bf16"):
        pack(reduced, tmp_path / "bf16.onnx", precision="bf16", opset=17, backend="onnxruntime-cuda")


def test_what_differs_from_the_session_is_not_written(
    exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = packing.packed_model

    def transposed(*arguments: Any, **options: Any) -> Any:
        """Rows and columns of the phases in each other's place."""
        model = honest(*arguments, **options)
        (turn,) = (node for node in model.graph if node.name == "merge/Transpose")
        order = turn.attributes["perm"].as_ints()
        turn.attributes["perm"] = ir.AttrInt64s("perm", [{2: 3, 3: 2}.get(axis, axis) for axis in order])
        return model

    monkeypatch.setattr(packing, "packed_model", transposed)
    with pytest.raises(CheckFailed, match=r"^the packed file labels \d+ of 6144 pixels differently .*; nothing was wr"):
        pack(exported, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_stands_there_is_replaced_on_request_alone(exported: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    first = pack(exported, path).path.read_bytes()
    with pytest.raises(
        OutputError, match=r"net\.onnx exists already; choose another place, or replace it with replace="
    ):
        pack(exported, path, levels=3)
    assert path.read_bytes() == first
    packed = pack(exported, path, levels=3, replace=True)
    assert path.read_bytes() != first
    assert json.loads(packed.document_path.read_text())["schedule"]["levels"] == 3
    packed.document_path.write_text('{"of": "somebody else"}')
    with pytest.raises(OutputError, match=r"net\.json is there and describes no packed file, so it is not replaced"):
        pack(exported, path, replace=True)
    path.unlink()
    with pytest.raises(OutputError, match=r"net\.json exists already"):
        pack(exported, path)
    assert packed.document_path.read_text() == '{"of": "somebody else"}'


def test_places_that_are_none(exported: Bundle, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"^a packed file is named \.onnx; received .*net\.bin$"):
        pack(exported, tmp_path / "net.bin")
    with pytest.raises(OutputError, match=r"there is no folder .*absent$"):
        pack(exported, tmp_path / "absent" / "net.onnx")
    with pytest.raises(OutputError, match=r"model\.onnx is a file of the bundle"):
        pack(bundle, bundle / "model.onnx", replace=True)
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OutputError, match=r"folder\.onnx is no file, so it is not replaced"):
        pack(exported, tmp_path / "folder.onnx", replace=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="not run: root may write everywhere")
def test_a_folder_that_may_not_be_written(exported: Bundle, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match=r"^cannot write to .*: Permission denied$"):
            pack(exported, tmp_path / "net.onnx")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("step", [0, 1])
def test_an_interruption_leaves_nothing(exported: Bundle, tmp_path: Path, step: int) -> None:
    said = []

    def interrupt(message: str) -> None:
        said.append(message)
        if len(said) > step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(exported, tmp_path / "net.onnx", on_step=interrupt)
    assert list(tmp_path.iterdir()) == []
    assert len(said) == step + 1


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"precision": "int8"}, BundleError, r"^the bundle has no int8 trunk \(it has fp16, fp32\); export it with"),
        ({"precision": "tf32"}, InputError, r'^tf32 is how a host computes the fp32 graph; pack precision="fp32"'),
        ({"levels": 7}, BundleError, r"^the bundle has no trunk of levels 7"),
        ({"levels": 3, "lowering": "dilated"}, BundleError, r"^the bundle has no trunk of levels 3 with the dilated"),
        ({"levels": 2, "memory": "1GiB"}, InputError, r"^memory= chooses the schedule; leave out levels="),
        ({"memory": "1MiB"}, InputError, r"1\.0 MiB"),
        (
            {"outputs": "probabilities"},
            InputError,
            r'^the bundle gives labels, .*; export it with outputs="probabiliti',
        ),
        ({"outputs": "masks"}, InputError, r"^outputs='masks' is unknown; known are labels, logits, probabilities$"),
        ({"output_layout": "chwn"}, InputError, r"^output_layout='chwn' is none of labels, which have hw, nhw, "),
        ({"label_type": "float32"}, InputError, r"^label_type='float32' is unknown; known are uint8, int32, int64$"),
        ({"input": "yuyv"}, InputError, r"^input='yuyv' is unknown; known are uint8, scaled, normalized, nv12$"),
        ({"input_layout": "whc"}, InputError, r"^input_layout='whc' is unknown; known are hwc, chw, nhwc, nchw$"),
        ({"input_color": "gbr"}, InputError, r"^input_color='gbr' is unknown; known are rgb, bgr$"),
        ({"input_scale": 2.0}, InputError, r'^input_scale= is for input="scaled"; received \'uint8\'$'),
        ({"input": "scaled", "input_scale": 0.0}, InputError, r"^input_scale= is a number above zero "),
        ({"input": "scaled", "input_mean": (1, 2)}, InputError, r"^input_mean= is three numbers, one a channel; "),
        ({"yuv_range": "full"}, InputError, r'^yuv_range= is for input="nv12"; received \'uint8\'$'),
        ({"input": "nv12", "input_layout": "nchw"}, InputError, r'^input="nv12" has a layout of its own and no order'),
        ({"input": "nv12", "yuv_matrix": "bt2020"}, InputError, r"^yuv_matrix='bt2020' is unknown; known are bt601, "),
        ({"loop": "while"}, InputError, r"^loop='while' is unknown; known are loop, unrolled$"),
        ({"loop": "unrolled", "levels": 5}, InputError, r'^loop="unrolled" .*, and this schedule has 1024 of them'),
        ({"opset": 16}, InputError, r"^opset= is 17, or the bundle's own, 18; received 16$"),
        ({"backend": "openvin"}, InputError, r"openvin"),
    ],
    ids=str,
)
def test_what_cannot_be_packed_is_one_message(
    exported: Bundle, tmp_path: Path, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        pack(exported, tmp_path / "net.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_logits_have_no_type_of_labels_and_an_odd_frame_no_chroma(of_logits: Bundle, tmp_path: Path) -> None:
    for options, message in (
        ({"label_type": "int32"}, r"^label_type= is for labels; logits are float32$"),
        ({"output_layout": "nhw"}, r"^output_layout='nhw' is none of logits, which have chw, hwc, nchw, nhwc$"),
        (
            {"outputs": "labels"},
            r'^the bundle gives logits, and its trunks hold nothing else; export it with outputs="l',
        ),
        ({"input": "nv12"}, r'^input="nv12" has one chroma sample for 2x2 pixels, .* the bundle\'s frame is 37x70$'),
    ):
        with pytest.raises(InputError, match=message):
            pack(of_logits, tmp_path / "net.onnx", **options)  # type: ignore[arg-type]


def test_weights_beyond_a_protobuf_are_refused(
    exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "MOST_BYTES", 2**16)
    with pytest.raises(InputError, match=r"^the weights are 69\d\.\d KiB, and one ONNX file holds less than 2 GiB; "):
        pack(exported, tmp_path / "net.onnx")


def test_a_graph_that_is_not_valid_is_said_to_be_so(
    exported: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "lower", lambda model: model.graph.opset_imports.update({"": 9}))
    with pytest.raises(NetworkError, match=r"^the packed graph is not valid in opset 17: "):
        pack(exported, tmp_path / "net.onnx", opset=17)


def test_it_is_public() -> None:
    assert converters.pack is smp_deploy.pack is pack
