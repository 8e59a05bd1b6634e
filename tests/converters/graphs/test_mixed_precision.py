"""Trunks in fp16, bf16 and int8 with modules kept in fp32: contents, results, and engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from converters.analysis.network import traced_network
from converters.exporting import export
from converters.graphs.modules import matching_modules
from converters.reference import noise_frame
from converters.verification import Subject, checks_of, reference_frames
from converters.verification.precisions import precision_checks
from engines import Bundle, Precision, Session
from engines.backends.tensorrt.builder import BuildConfig, engine_from_onnx
from engines.backends.tensorrt.flavours import RTX
from engines.bundle.manifest import TrunkRecord
from engines.bundle.records import Status
from engines.errors import BackendError, InputError, NetworkError
from engines.schedules.schedule import Schedule
from tests.networks import uneven_network

SIZE = (24, 32)
FRAMES = tuple(noise_frame(SIZE, seed) for seed in range(3))
REDUCED = (Precision.FP16, Precision.BF16, Precision.INT8)
KEPT = {Precision.FP16: ("pointwise", "sh*"), Precision.INT8: ("head",)}
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="not run: tensorrt_rtx is not installed"
)


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The uneven network in every precision: levels 1 and 2, split by reshapes and by strides."""
    return export(
        uneven_network(),
        tmp_path_factory.mktemp("reduced") / "bundle",
        size=SIZE,
        outputs="logits",
        opset=22,
        precisions=REDUCED,
        keep_fp32=KEPT,
        calibration_frames=FRAMES,
        calibration="minmax",
        levels=(1, 2),
        lowerings=("reshape", "strided"),
    )


def graph_of(bundle: Bundle, trunk: TrunkRecord, precision: Precision) -> onnx.GraphProto:
    return onnx.load(bundle.file(bundle.trunk_graph(trunk, precision)), load_external_data=False).graph


def sessions(bundle: Bundle, precision: Precision) -> Iterator[np.ndarray]:
    for trunk in bundle.manifest.trunks:
        for sub_batch in (1, 2):
            schedule = Schedule(trunk.levels, sub_batch, trunk.lowering)
            with Session.open(bundle, precision=precision, schedule=schedule) as session:
                yield session.predict(FRAMES[0])


def test_graphs_are_valid_and_the_manifest_counts_their_convolutions(reduced: Bundle) -> None:
    for trunk in reduced.manifest.trunks:
        graph = graph_of(reduced, trunk, Precision.FP32)
        convolutions = sum(node.op_type == "Conv" for node in graph.node)
        assert trunk.convolutions[Precision.FP32] == {Precision.FP32: convolutions}
        assert trunk.convolutions[Precision.FP16] == {Precision.FP32: 2, Precision.FP16: convolutions - 2}
        assert trunk.convolutions[Precision.BF16] == {Precision.BF16: convolutions}
        assert trunk.convolutions[Precision.INT8] == {Precision.FP32: 1, Precision.INT8: convolutions - 1}
        for name in trunk.graphs.values():
            onnx.checker.check_model(str(reduced.path / name), full_check=True)
    assert reduced.manifest.keep_fp32 == {precision: list(kept) for precision, kept in KEPT.items()}


def test_what_the_manifest_promises_is_checked_layer_by_layer(reduced: Bundle) -> None:
    checks = list(precision_checks(Subject(reduced, reference_frames(reduced))))
    assert len(checks) == 4 * len(reduced.manifest.trunks)
    assert {check.status for check in checks} == {Status.PASSED}
    fp16 = reduced.manifest.trunk().graphs[Precision.FP16]
    (detail,) = [check.detail for check in checks if check.name == f"precision of {fp16}"]
    assert "2 fp32" in detail
    assert detail.endswith("; to stay in fp32: pointwise, shortcut")
    # Had nobody asked for it, layers in fp32 would be a fault.
    manifest = msgspec.structs.replace(reduced.manifest, keep_fp32={})
    failed = [check for check in precision_checks(Subject(replace(reduced, manifest=manifest), [])) if check.failed]
    int8 = reduced.manifest.trunk().graphs[Precision.INT8]
    wrong = {check.name: (check.value, check.location) for check in failed}
    assert len(wrong) == 2 * len(manifest.trunks)
    assert wrong[f"precision of {fp16}"] == (2, f"{fp16}: pointwise/Conv computes in fp32")
    assert wrong[f"precision of {int8}"] == (1, f"{int8}: head/Conv computes in fp32")


def test_kept_modules_and_their_sum_are_fp32_between_casts(reduced: Bundle) -> None:
    graph = graph_of(reduced, reduced.manifest.trunk(), Precision.FP16)
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    kinds = {node.name: types[node.output[0]] for node in graph.node if node.op_type in ("Conv", "Add", "Relu")}
    single, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    assert kinds["pointwise/Conv"] == kinds["shortcut/Conv"] == kinds["Add"] == single
    assert kinds["stem/Conv"] == kinds["depthwise/Conv"] == kinds["body/Conv"] == kinds["head/Conv"] == half
    # The ReLU of the sum takes what is fp32, and stays with it; the one before the pointwise convolution does not.
    assert kinds["relu/Relu"] == kinds["relu/Relu_1"] == half
    assert kinds["relu/Relu_2"] == single


def test_weights_rounded_to_fp16_are_within_tolerance_in_every_schedule(reduced: Bundle) -> None:
    # ONNX Runtime computes the rest in fp32 on a CPU; the chain of the validation rounds activations, too.
    with Session.open(reduced) as session:
        expected = session.predict(FRAMES[0])
    for logits in sessions(reduced, Precision.FP16):
        assert 0 < np.abs(logits - expected).max() / np.abs(expected).max() < 1e-2


def fake_quantized(network: nn.Module, ranges: dict[str, float], kept: tuple[str, ...]) -> nn.Module:
    """PyTorch's own fake quantization around every convolution: an independent way to int8."""
    graph = traced_network(network).graph

    def quantize(module: nn.Module, name: str) -> None:
        scale = step(ranges[name])
        channels = module.weight.detach().abs().flatten(1).amax(1)
        scales = torch.tensor([step(float(channel)) for channel in channels])
        zeros = torch.zeros(len(scales), dtype=torch.int32)
        module.weight = nn.Parameter(
            torch.fake_quantize_per_channel_affine(module.weight.detach(), scales, zeros, 0, -127, 127)
        )
        module.bias = nn.Parameter(torch.round(module.bias.detach() / (scales * scale)) * (scales * scale))
        module.register_forward_pre_hook(
            lambda _, inputs: torch.fake_quantize_per_tensor_affine(inputs[0], scale, 0, -128, 127)
        )

    for name, module in graph.named_modules():
        if isinstance(module, nn.Conv2d) and name not in kept:
            quantize(module, name)
    return graph.eval()


def step(magnitude: float) -> float:
    """The first of 4, 5, 6, 7 eighths of a power of two that is at least a 127th of the magnitude."""
    candidates = [part * 2.0**power for power in range(-30, 20) for part in (4, 5, 6, 7)]
    return min(candidate for candidate in candidates if candidate >= magnitude / 127 * (1 - 1e-12))


def test_int8_is_pytorchs_fake_quantization_and_the_same_in_every_schedule(reduced: Bundle) -> None:
    calibration = reduced.manifest.calibration
    assert calibration is not None
    network = fake_quantized(uneven_network(), calibration.ranges, ("head",))
    image, record = FRAMES[0] / 255, reduced.manifest.input
    planes = ((image - record.mean) / record.std).transpose(2, 0, 1)[None].astype(np.float32)
    with torch.inference_mode():
        expected = network(torch.from_numpy(planes))[0].numpy()
    found = list(sessions(reduced, Precision.INT8))
    labels = found[0].argmax(0)
    for logits in found:
        # A value at a rounding boundary may fall to either side; labels are those of all schedules.
        assert np.quantile(np.abs(logits - expected), 0.99) <= 1e-5 * np.abs(expected).max()
        np.testing.assert_array_equal(logits.argmax(0), labels)
        np.testing.assert_allclose(logits, found[0], rtol=0, atol=1e-5 * np.abs(expected).max())


def test_int8_weights_are_stored_once(reduced: Bundle) -> None:
    offsets: dict[str, set[str]] = {}
    for trunk in reduced.manifest.trunks:
        for tensor in graph_of(reduced, trunk, Precision.INT8).initializer:
            if tensor.name.endswith(".weight.int8") and tensor.external_data:
                entry = {item.key: item.value for item in tensor.external_data}
                offsets.setdefault(tensor.name, set()).add(entry["offset"])
    assert set(offsets) >= {"stem.weight.int8", "body.weight.int8"}
    assert all(len(places) == 1 for places in offsets.values())


def test_ranges_by_minmax_are_those_of_the_frames(reduced: Bundle) -> None:
    calibration = reduced.manifest.calibration
    assert calibration is not None
    assert (calibration.method, calibration.frames, calibration.percentile) == ("minmax", 3, None)
    record = reduced.manifest.input
    planes = [np.abs((frame / 255 - record.mean) / record.std).max() for frame in FRAMES]
    # The first layer reads the frame itself, of which a few phases of the 3x2 window were seen.
    assert calibration.ranges["stem"] == pytest.approx(max(planes), rel=1e-6)


@needs_rtx
@pytest.mark.parametrize("precision", REDUCED)
def test_engines_in_every_precision(reduced: Bundle, precision: Precision) -> None:
    names = {Precision.FP32: "FLOAT", Precision.FP16: "HALF", Precision.BF16: "BF16", Precision.INT8: "INT8"}
    for trunk in reduced.manifest.trunks:
        expected = trunk.convolutions[precision]
        config = BuildConfig(precision, expected, sub_batch=2)
        built = engine_from_onnx(reduced.file(reduced.trunk_graph(trunk, precision)), RTX, config)
        assert built.precisions == {names[kind]: count for kind, count in expected.items()}
        assert len(built.plan) > 100_000


@needs_rtx
def test_another_number_of_fp32_convolutions_is_refused(reduced: Bundle) -> None:
    trunk = reduced.manifest.trunk()
    graph = reduced.file(reduced.trunk_graph(trunk, Precision.FP16))
    for expected in (None, {Precision.FP32: 1, Precision.FP16: 5}):
        config = BuildConfig(Precision.FP16, expected)
        with pytest.raises(BackendError, match=r"was to be fp16.* but its convolutions are"):
            engine_from_onnx(graph, RTX, config)


def test_checks_of_bf16_are_not_run_and_say_why(reduced: Bundle) -> None:
    checks = {check.name: check for check in checks_of(Subject(reduced, reference_frames(reduced)))}
    for name in ("trunk.onnx -> trunk.bf16.onnx", "NaN and Inf in trunk.bf16.onnx"):
        assert checks[name].status is Status.NOT_RUN
        assert "no bf16 convolution on the CPU" in checks[name].detail
    assert checks["trunk.onnx -> trunk.fp16.onnx"].status is Status.PASSED
    with pytest.raises(BackendError, match="no bf16 convolution on the CPU"):
        Session.open(reduced, precision=Precision.BF16)


MODULES = ("conv1", "layer4.0.conv1", "layer4.0.conv2", "layer4.1.conv1", "head")


def test_patterns_name_modules_and_all_inside_them() -> None:
    assert matching_modules(("layer4.*",), MODULES) == set(MODULES[1:4])
    assert matching_modules(("layer4",), MODULES) == set(MODULES[1:4])
    assert matching_modules(("layer4.0", "head"), MODULES) == {*MODULES[1:3], "head"}
    assert matching_modules(("*.conv1",), MODULES) == {"layer4.0.conv1", "layer4.1.conv1"}
    with pytest.raises(NetworkError, match=r"'layer5.\*' names no module of the network; it has layer4"):
        matching_modules(("layer5.*",), MODULES)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"precisions": (Precision.BF16,)}, NetworkError, "bf16 needs opset 22 or later"),
        ({"precisions": "int8"}, InputError, r'precisions=\("int8",\) needs calibration_frames='),
        ({"calibration_frames": FRAMES}, InputError, r'calibration_frames= is for precisions=\("int8",\)'),
        (
            {"precisions": ("int8",), "calibration_frames": (FRAMES[0], FRAMES[0][:20])},
            InputError,
            r"frame 1 of calibration_frames= is uint8 of shape \(20, 32, 3\)",
        ),
        (
            {"precisions": ("int8",), "calibration_frames": (np.full_like(FRAMES[0], 9),)},
            InputError,
            "frame 0 of calibration_frames= has one value throughout, 9",
        ),
        ({"keep_fp32": ("steem",)}, NetworkError, "'steem' names no module .* it has stem"),
        ({"keep_fp32": {"int8": ("stem",)}}, InputError, "names 'stem' for int8 trunks, and precisions= has no int8"),
    ],
)
def test_what_cannot_be_exported(
    options: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export(uneven_network(), tmp_path / "bundle", size=SIZE, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "bundle").exists()
