"""The shipped graphs against PyTorch: logits, contents, determinism, batches, and the reference cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import converters
from converters import reference
from converters.exporting import export
from converters.graphs.stages import IMAGENET_MEAN, IMAGENET_STD
from converters.networks import network_from_arch
from converters.palettes import classes_from_names
from converters.pooling import MergePool2d, SplitPool2d, merge, split
from engines import Bundle, OutputKind, Precision, Session
from engines.errors import InputError, NetworkError, OutputError
from tests.networks import uneven_network, with_statistics

Size = tuple[int, int]
FIRST = {"precisions": (), "lowerings": "reshape"}
"""The bundle's first trunk alone, in fp32."""
NOISE = reference.noise_frame((32, 32), seed=0)
INT8 = {"precisions": "int8", "calibration_frames": [NOISE]}


def frame_of(size: Size, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def torch_logits(network: nn.Module, frame: np.ndarray, padded: Size) -> np.ndarray:
    """An independent way in: numpy normalises and pads, the network runs as it is."""
    normal = (frame / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    height, width = frame.shape[:2]
    planes = np.zeros((1, 3, *padded), np.float32)
    planes[0, :, :height, :width] = normal.transpose(2, 0, 1)
    with torch.no_grad():
        return network.eval()(torch.from_numpy(planes))[0, :, :height, :width].numpy()


def run_onnx(path: Path, **feed: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def arch(name: str, width: int) -> Callable[[], nn.Module]:
    return lambda: with_statistics(lambda: network_from_arch(name, width=width), seed=7)


NETWORKS = {
    "SMP-18": (arch("smp-resnet18", 16), (32, 32)),
    "SMP-34": (arch("smp-resnet34", 8), (32, 32)),
    "SMP-101": (arch("smp-resnet101", 8), (32, 32)),
    "FCN32s": (arch("fcn32s-resnet18", 16), (32, 32)),
    "FCN8s": (arch("fcn8s-resnet18", 16), (32, 32)),
    "own": (uneven_network, (6, 16)),
}
CASES = [(name, size) for name in NETWORKS for size in ((64, 96), (70, 90))] + [("SMP-18", (256, 512))]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_graphs_equal_pytorch_and_merged_phases_equal_the_whole(name: str, size: Size, tmp_path: Path) -> None:
    factory, multiple = NETWORKS[name]
    network = factory()
    bundle = export(network, tmp_path / "bundle", size=size, **FIRST)
    padded = tuple(-(-side // step) * step for side, step in zip(size, multiple, strict=True))
    assert bundle.manifest.input.padded_size == padded
    frame = frame_of(size)
    expected = torch_logits(network, frame, padded)
    logits = run_onnx(bundle.path / "model.onnx", frames=frame[None])[0]
    assert np.abs(logits - expected).max() / np.abs(expected).max() <= 1e-5
    with Session.open(bundle.path) as session:
        labels = session.predict(frame)
    # Where labels differ at all, the two classes are as good as equal.
    differs = labels != logits.argmax(0)
    ordered = np.sort(logits, axis=0)
    assert (ordered[-1] - ordered[-2])[differs].max(initial=0) <= 1e-4 * np.abs(logits).max()
    assert differs.mean() <= 1e-4


def test_operators_of_the_whole_graph(exported: Bundle) -> None:
    graph = onnx.load(exported.path / "model.onnx").graph
    normalisation = Counter({"Cast": 1, "Transpose": 1, "Mul": 1, "Add": 1})
    inside = Counter(node.op_type for node in graph.node) - normalisation
    # 21 convolutions: 20 of ResNet-18 (shortcuts included) and the head. 8 splits and 5 merges, each one Transpose.
    assert inside.pop("Conv") == 21
    assert inside.pop("Relu") == 17
    assert inside.pop("Add") == 8
    assert inside.pop("Transpose") == 8 + 5
    assert set(inside) == {"Reshape"}


def test_graphs_pass_the_checker_and_carry_nothing_of_this_machine(exported: Bundle) -> None:
    for name in ("model.onnx", "prepare.onnx", "trunk.onnx", "trunk.fp16.onnx"):
        path = exported.path / name
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path, load_external_data=False)
        assert not model.metadata_props
        assert not any(node.doc_string for node in model.graph.node)
        keys = {entry.key for node in model.graph.node for entry in node.metadata_props}
        assert keys <= {"smp_deploy.part", "smp_deploy.module"}
        content = path.read_bytes()
        for trace in (b".py", b"/home", b"/root", str(Path.cwd()).encode(), b"stack_trace"):
            assert trace not in content


def test_names_are_those_of_the_modules(exported: Bundle) -> None:
    graph = onnx.load(exported.path / "model.onnx", load_external_data=False).graph
    names = [node.name for node in graph.node]
    assert len(names) == len(set(names))
    assert {"conv1/Conv", "layer2.0.split/Transpose", "layer4.1.conv2/Conv", "head/Conv"} <= set(names)
    initializers = {tensor.name for tensor in graph.initializer}
    assert {
        "conv1.weight",
        "conv1.bias",
        "layer3.0.downsample.0.weight",
        "layer2.0.split/Reshape/shape",
    } <= initializers


def test_export_is_deterministic(small_network: nn.Module, exported: Bundle, tmp_path: Path) -> None:
    again = export(small_network, tmp_path / "again", size=(64, 96), source="smp-resnet18", width=8)
    assert (again.path / "manifest.json").read_bytes() == (exported.path / "manifest.json").read_bytes()
    for name in exported.manifest.files:
        assert (again.path / name).read_bytes() == (exported.path / name).read_bytes()


def test_weights_are_stored_once(exported: Bundle, small_network: nn.Module) -> None:
    # Batch norms are folded: 20 biased convolutions and the head remain, in fp32 and in fp16.
    convolutions = [module for module in small_network.modules() if isinstance(module, nn.Conv2d)]
    values = sum(conv.weight.numel() + conv.out_channels for conv in convolutions)
    offsets = {}
    for name in ("model.onnx", "trunk.onnx", "trunk.fp16.onnx"):
        for tensor in onnx.load(exported.path / name, load_external_data=False).graph.initializer:
            if tensor.external_data:
                entry = {item.key: item.value for item in tensor.external_data}
                assert entry["location"] == "weights.bin"
                offsets[entry["offset"]] = int(entry["length"])
    stored = sum(offsets.values())
    # Biases too small for the file stay in the graphs.
    assert 0.99 * values * (4 + 2) <= stored <= values * (4 + 2)
    assert (exported.path / "weights.bin").stat().st_size <= stored + 4096 * len(offsets)


def test_no_batch_is_baked_in(exported: Bundle) -> None:
    frames = np.stack([frame_of((64, 96), seed) for seed in range(3)])
    together = run_onnx(exported.path / "model.onnx", frames=frames)
    for index in range(3):
        alone = run_onnx(exported.path / "model.onnx", frames=frames[index : index + 1])
        np.testing.assert_allclose(together[index], alone[0], rtol=0, atol=1e-5 * np.abs(alone).max())
    windows = np.random.default_rng(0).normal(size=(5, 3, 67, 99)).astype(np.float32)
    labels = run_onnx(exported.path / "trunk.onnx", windows=windows)
    assert (labels.shape, labels.dtype) == ((5, 16, 24), np.uint8)
    for index in range(5):
        one = run_onnx(exported.path / "trunk.onnx", windows=windows[index : index + 1])
        assert (one[0] == labels[index]).mean() > 0.999


def test_prepare_normalises_and_surrounds_with_zeros(exported: Bundle) -> None:
    frame = frame_of((64, 96))
    planes = run_onnx(exported.path / "prepare.onnx", frame=frame)
    assert planes.shape == (3, 64 + 6, 96 + 6)
    normal = (frame / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    np.testing.assert_allclose(planes[:, 3:-3, 3:-3], normal.transpose(2, 0, 1), atol=1e-6)
    planes[:, 3:-3, 3:-3] = 0
    assert not planes.any()


def test_another_normalisation_is_in_the_graphs(tmp_path: Path) -> None:
    bundle = export(
        uneven_network(), tmp_path / "bundle", size=(24, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0), **FIRST
    )
    planes = run_onnx(bundle.path / "prepare.onnx", frame=np.full((24, 32, 3), 255, np.uint8))
    np.testing.assert_allclose(planes[:, 10, 10], [2, 1, 0.5], atol=1e-6)


@pytest.mark.parametrize("outputs", [OutputKind.LOGITS, OutputKind.PROBABILITIES])
def test_float_outputs(outputs: OutputKind, tmp_path: Path) -> None:
    network = uneven_network()
    size = (20, 30)
    bundle = export(network, tmp_path / "bundle", size=size, outputs=outputs, **FIRST)
    frame = frame_of(size)
    expected = torch_logits(network, frame, (24, 32))
    if outputs is OutputKind.PROBABILITIES:
        raised = np.exp(expected - expected.max(0))
        expected = raised / raised.sum(0)
    with Session.open(bundle.path) as session:
        predictions = session.predict(frame)
    assert (predictions.shape, predictions.dtype) == ((5, *size), np.float32)
    assert np.abs(predictions - expected).max() / np.abs(expected).max() <= 1e-5


def test_fp16_trunk_keeps_fp32_outside(exported: Bundle) -> None:
    graph = onnx.load(exported.path / "trunk.fp16.onnx", load_external_data=False).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    kinds = {tensor.data_type for tensor in graph.initializer if ".weight" in tensor.name}
    assert kinds == {onnx.TensorProto.FLOAT16}
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    convolutions = [types[node.output[0]] for node in graph.node if node.op_type == "Conv"]
    assert convolutions == [onnx.TensorProto.FLOAT16] * 21
    with Session.open(exported.path, precision=Precision.FP16) as half, Session.open(exported.path) as full:
        frame = frame_of((64, 96))
        assert (half.predict(frame) == full.predict(frame)).mean() > 0.99


def test_reference_cases_hold_one_phase_of_pytorch(small_network: nn.Module, exported: Bundle) -> None:
    (case,) = exported.manifest.reference
    frame, logits = exported.reference_arrays(case)
    assert frame.std() > 30  # noise with the range of a frame, not a constant
    # A small frame is kept whole: fewer pixels would say little.
    assert (case.phase, case.window) == ((0, 0), (1, 1))
    expected = torch_logits(small_network, frame, (64, 96))
    assert np.abs(logits - expected).max() / np.abs(expected).max() <= 1e-5


def test_functional_splits_have_reference_cases_too(tmp_path: Path) -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return merge(self.head(split(self.conv(x), (2, 3))), (2, 3))

    network = with_statistics(Functional, seed=0)
    bundle = export(network, tmp_path / "bundle", size=(10, 15))
    (case,) = bundle.manifest.reference
    frame, logits = bundle.reference_arrays(case)
    (row, column), (h, w) = case.phase, case.window
    expected = torch_logits(network, frame, (10, 15))[:, row::h, column::w]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


class Pairing(nn.Module):
    """Two nested splits of the same window, however their layers are shared and paired."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem, self.body, self.head = (
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.Conv2d(4, 2, 1),
        )
        self.outer = SplitPool2d(2)
        self.inner = self.outer if kind == "one split for two levels" else SplitPool2d(2)
        self.functional = kind == "functional merge"
        self.merge_outer, self.merge_inner = MergePool2d(self.outer), MergePool2d(self.inner)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(self.inner(self.body(self.outer(self.stem(x)))))
        if self.functional:
            return merge(merge(x, (2, 2)), (2, 2))
        return self.merge_outer(self.merge_inner(x))


@pytest.mark.parametrize("kind", ["usual", "one split for two levels", "functional merge"])
def test_reference_cases_are_right_however_layers_are_paired(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "_FEWEST_PIXELS", 24)
    network = with_statistics(lambda: Pairing(kind), seed=0)
    bundle = export(network, tmp_path / "bundle", size=(8, 12), **FIRST)
    assert bundle.manifest.trunk().levels == 1
    assert bundle.manifest.reference[0].window == (2, 2)
    (case,) = bundle.manifest.reference
    frame, logits = bundle.reference_arrays(case)
    row, column = case.phase
    expected = torch_logits(network, frame, (8, 12))[:, row::2, column::2]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("multiple", [32, (0, 2), "ab", None])
def test_a_bad_size_multiple_is_named(multiple: object, tmp_path: Path) -> None:
    network = nn.Conv2d(3, 2, 1)
    network.size_multiple = multiple  # type: ignore[assignment]
    with pytest.raises(NetworkError, match="size_multiple is a pair"):
        export(network, tmp_path / "bundle", size=(32, 32))


def test_the_network_is_left_as_it_was(tmp_path: Path) -> None:
    """Modes, parameters and their gradients, hooks, and the offsets of its splits."""
    network = uneven_network().train()
    network.stem_norm.eval()
    network.stem.weight.grad = torch.ones_like(network.stem.weight)
    network.body.weight.requires_grad_(False)
    calls: list[nn.Module] = []
    network.head.register_forward_hook(lambda layer, given, result: calls.append(layer))
    drawn = network.split2.shared.current()
    modules, parameters = list(network.modules()), list(network.parameters())
    modes = [module.training for module in modules]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    export(network, tmp_path / "bundle", size=(24, 32), **FIRST)
    assert list(network.modules()) == modules
    assert [module.training for module in modules] == modes
    assert all(old is new for old, new in zip(parameters, network.parameters(), strict=True))
    assert [parameter.requires_grad for parameter in parameters].count(False) == 1
    assert torch.equal(network.stem.weight.grad, torch.ones_like(network.stem.weight))
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert len(network.head._forward_hooks) == 1
    assert network.split2.shared.current() == drawn


class Wrong(nn.Module):
    def __init__(self, network: nn.Module, after: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self.after = network, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.network(x))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Conv2d(3, 2, 3), r"logits \(1, classes, 32, 32\); this one gives \(1, 2, 30, 30\)"),
        (nn.Conv2d(4, 2, 1), "cannot take an image of 32x32"),
        (nn.Conv2d(3, 300, 1), "300 classes do not fit"),
        (nn.Sequential(SplitPool2d(2)), "not merged"),
    ],
    ids=["smaller output", "other input", "too many classes", "not merged"],
)
def test_networks_that_cannot_be_exported(network: nn.Module, message: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=message):
        export(network, tmp_path / "bundle", size=(32, 32))
    assert not any(tmp_path.iterdir())


def test_more_classes_than_a_byte_holds_are_logits(tmp_path: Path) -> None:
    bundle = export(nn.Conv2d(3, 300, 1), tmp_path / "bundle", size=(8, 8), outputs="logits", **FIRST)
    with Session.open(bundle.path) as session:
        assert session.predict(frame_of((8, 8))).shape == (300, 8, 8)


def test_logits_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = nn.Conv2d(3, 2, 1)
    nn.init.constant_(network.weight, float("inf"))
    with pytest.raises(NetworkError, match="not finite"):
        export(network, tmp_path / "bundle", size=(32, 32))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"precisions": ("tf32",)}, "tf32 is computed from the fp32 graph, which every bundle has"),
        ({"opset": 7}, "opset= is a number from 18 to 23; received 7"),
        (
            {"classes": classes_from_names(["a", "b", "c"])},
            "3 classes are named, and the network's logits have 2 channels",
        ),
        ({"classes": "road"}, "classes= are names, or records"),
        ({"size": (32,)}, r"size= is \(height, width\) of a frame in pixels.* received \(32,\)"),
        ({"size": (32, 0)}, "size= is"),
        ({"size": "32x32"}, "size= is .* received '32x32'"),
        ({"outputs": "masks"}, "outputs='masks' is unknown; known are labels, logits, probabilities"),
        ({"precisions": ("fp8",)}, "precisions='fp8' is unknown; known are fp32, tf32, fp16, bf16, int8"),
        ({"lowerings": "unrolled"}, "lowerings='unrolled' is unknown; known are reshape, strided, dilated"),
        ({"levels": (-1,)}, r"levels= are numbers of splits .* received \(-1,\)"),
        ({"levels": 1.5}, "levels= are numbers of splits"),
        ({"keep_fp32": {"bf16": ("head",)}}, "keep_fp32= names 'head' for bf16 trunks, and precisions= has no bf16"),
        ({"keep_fp32": "head", "precisions": ()}, "keep_fp32= is for the trunks of other precisions"),
        ({"precisions": "int8"}, "needs calibration_frames=, frames such as"),
        ({"calibration_frames": [NOISE]}, r'calibration_frames= is for precisions=\("int8",\)'),
        ({"calibration_percentile": 99}, r'calibration_percentile= is for precisions=\("int8",\)'),
        ({"calibration": "minmax"}, r'calibration= is for precisions=\("int8",\)'),
        ({"calibration": "median", **INT8}, "calibration='median' is unknown; known are "),
        (
            {"calibration": "minmax", "calibration_percentile": 99.99, **INT8},
            "calibration_percentile= is for calibration=\"percentile\"; received 'minmax'",
        ),
        ({"calibration_percentile": 0, **INT8}, "calibration_percentile= is above 0"),
        ({"mean": (0.5, 0.5)}, "mean= and std= are three numbers each"),
        ({"std": (0.0, 1.0, 1.0)}, "std= above zero"),
        (
            {"reference_frames": [np.zeros((32, 31, 3), np.uint8)]},
            r"frame 0 of reference_frames= is uint8 of shape \(32, 31",
        ),
        ({"reference_frames": [np.zeros((32, 32, 3), np.float32)]}, r"frame 0 of reference_frames= is float32"),
    ],
)
def test_errors_speak_of_the_arguments(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as raised:
        export(nn.Conv2d(3, 2, 1), tmp_path / "bundle", **{"size": (32, 32), **arguments})  # type: ignore[arg-type]
    assert "--" not in str(raised.value)
    assert not any(tmp_path.iterdir())


def test_a_live_network_needs_nothing_but_a_place_and_a_size(tmp_path: Path) -> None:
    """As a training script has it: in training mode, on whatever device, of no known architecture."""
    network = uneven_network().train()
    bundle = converters.export(network, str(tmp_path / "bundle"), size=(24, 32), classes=["a", "b", "c", "d", "e"])
    assert bundle.manifest.network.source == "tests.networks.UnevenNetwork"
    assert bundle.manifest.network.checkpoint_sha256 is None
    assert [held.name for held in bundle.manifest.classes] == ["a", "b", "c", "d", "e"]
    assert set(bundle.manifest.trunk().graphs) == {Precision.FP32, Precision.FP16}
    frame = frame_of((24, 32))
    with Session.open(tmp_path / "bundle") as session:
        labels = session.predict(frame)
    assert (labels == torch_logits(network, frame, (24, 32)).argmax(0)).mean() > 0.999


def test_parameters_of_another_type_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"this one has torch.float64: call .float\(\) on it"):
        export(uneven_network().double(), tmp_path / "bundle", size=(24, 32))


def test_an_existing_bundle_is_replaced_only_on_request(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    network = nn.Sequential(nn.Conv2d(3, 2, 1))
    export(network, target, size=(32, 32), source="first", **FIRST)
    with pytest.raises(OutputError, match="exists already"):
        export(network, target, size=(32, 32), **FIRST)
    second = {"size": (32, 32), "source": "second", "replace": True, **FIRST}
    export(network, target, **second)
    (tmp_path / "link").symlink_to(target)
    export(network, tmp_path / "link", **second)
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "link").unlink()
    assert Bundle.open(target).manifest.network.source == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_opsets(opset: int, tmp_path: Path) -> None:
    network = nn.Sequential(layer := SplitPool2d(2), nn.Conv2d(3, 2, 3, padding=1), MergePool2d(layer))
    bundle = export(network, tmp_path / "bundle", size=(32, 32), opset=opset, **FIRST)
    for name in ("model.onnx", "trunk.onnx"):
        (entry,) = onnx.load(bundle.path / name, load_external_data=False).opset_import
        assert entry.version == opset
    frame = frame_of((32, 32))
    expected = torch_logits(network, frame, (32, 32))
    np.testing.assert_allclose(
        run_onnx(bundle.path / "model.onnx", frames=frame[None])[0], expected, atol=1e-5 * np.abs(expected).max()
    )
