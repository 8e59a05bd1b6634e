"""Faults that hide where a proof does not look: at some sub-batches, at one offset, in a precision worse than its name.

Each is planted into the ONNX of a bundle that is right; it is found, and located.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from converters.exporting import export
from converters.pooling import MergePool2d, SplitPool2d
from converters.reference import digest_of_parameters, noise_frame
from converters.verification import Subject, checks_of, reference_frames
from converters.verification.chain import frame_checks, other_trunk_checks, whole_checks
from converters.verification.constants import constant_checks
from converters.verification.edges import edge_checks
from converters.verification.groups import mixed_groups, sizes_of, whole_groups
from converters.verification.labels import label_checks
from converters.verification.origins import origin_checks
from converters.verification.own_errors import own_error_checks
from converters.verification.samples import real_frame_checks, sampled_phases
from converters.verification.small_frames import small_frame_checks
from converters.verification.validate import validate
from converters.verification.walking import walked_frames
from engines import Bundle, Precision, Schedule
from engines.bundle.edges import EdgeFrame
from engines.bundle.manifest import TuningMeasurement, TuningRecord
from engines.bundle.records import Check, Kind, Status
from tests.converters.three_levels import SIZE, three_levels
from tests.converters.verification.faults import after, before_output, constant, edited, node_of, sealed, set_parameter


@pytest.fixture(scope="module")
def good(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """``trunk.onnx`` of level 1 with 4 phases, trunks of level 3 with 16 inner offsets, and their strided forms."""
    return export(
        network,
        tmp_path_factory.mktemp("good") / "bundle",
        size=SIZE,
        levels=(1, 3),
        lowerings=("reshape", "strided"),
        precisions=("fp16", "int8"),
        calibration_frames=[noise_frame(SIZE, seed) for seed in (40, 41)],
    )


def subject_of(bundle: Bundle, network: nn.Module | None = None) -> Subject:
    return Subject(bundle, reference_frames(bundle), network=network)


def failed(checks: Iterable[Check]) -> list[Check]:
    return [check for check in checks if check.failed]


def the_only(checks: Iterable[Check], name: str) -> Check:
    (found,) = failed(checks)
    assert found.name == name
    return found


def test_the_good_bundle_passes_every_check(good: Bundle, network: nn.Module) -> None:
    checks = list(checks_of(subject_of(good, network)))
    assert failed(checks) == []
    names = [check.name for check in checks]
    for graph in (name for trunk in good.manifest.trunks for name in trunk.graphs.values()):
        assert names.count(f"sub-batches of {graph}") >= 1
        assert names.count(f"model.onnx -> {graph}") == 1
    assert names.count("batches of model.onnx") == 1
    sizes = {check.subject.rpartition("sub-batches of ")[2] for check in checks if check.kind is Kind.SUB_BATCH}
    assert "1, 2, 3 and 4" in sizes


Plant = Callable[[onnx.ModelProto], None]


def shifted(tensor: str, condition: Callable[[onnx.ModelProto], str]) -> Plant:
    """0.5 added to a layer's output where a scalar condition of the graph holds."""

    def plant(model: onnx.ModelProto) -> None:
        dtype = next(
            (held.type.tensor_type.elem_type for held in model.graph.value_info if held.name == tensor),
            TensorProto.FLOAT,
        )
        flag = condition(model)
        amount = constant(model, "amount", np.array(0.5, np.float16 if dtype == TensorProto.FLOAT16 else np.float32))
        nodes = [
            helper.make_node("Cast", [flag], ["one"], to=dtype),
            helper.make_node("Mul", ["one", amount], ["shift"]),
            helper.make_node("Add", [tensor, "shift"], ["faulty"]),
        ]
        after(model, tensor, *nodes)

    return plant


def ahead(model: onnx.ModelProto, *nodes: onnx.NodeProto) -> str:
    """Nodes at the beginning of a graph; the name of the last result."""
    for place, node in enumerate(nodes):
        model.graph.node.insert(place, node)
    return str(nodes[-1].output[0])


def batch(operator: str, size: int, source: str = "windows") -> Callable[[onnx.ModelProto], str]:
    """Whether the batch is of a size, or of at least that."""

    def condition(model: onnx.ModelProto) -> str:
        wanted = constant(model, "size", np.array([size], np.int64))
        return ahead(
            model,
            helper.make_node("Shape", [source], ["count"], start=0, end=1),
            helper.make_node(operator, ["count", wanted], ["hit"]),
            helper.make_node("Squeeze", ["hit"], ["flag"]),
        )

    return condition


@pytest.mark.parametrize(
    ("graph", "operator", "size", "wrong"),
    [
        ("trunk.onnx", "GreaterOrEqual", 4, "4"),
        ("trunk.onnx", "Equal", 3, "3"),
        ("trunk.fp16.onnx", "GreaterOrEqual", 3, "3 and 4"),
        ("trunk.int8.onnx", "Equal", 2, "2"),
        ("trunk-l1-strided.onnx", "GreaterOrEqual", 2, "2, 3 and 4"),
        ("trunk-l3-reshape.onnx", "GreaterOrEqual", 2, "2, 3 and 4"),
        ("trunk-l3-reshape.fp16.onnx", "Equal", 4, "4"),
    ],
)
def test_wrong_at_some_sub_batches(spoilt: Path, graph: str, operator: str, size: int, wrong: str) -> None:
    tensor = next(
        node.output[0] for node in onnx.load(spoilt / graph).graph.node if node.name.startswith("convs.1/Conv")
    )
    bundle = edited(spoilt, graph, edit=shifted(tensor, batch(operator, size)))
    found = the_only(small_frame_checks(subject_of(bundle)), f"sub-batches of {graph}")
    assert f"{graph}: results depend on the sub-batch (wrong in sub-batches of {wrong})" in found.location
    # What stands between two layers shows in the next one; strided splits join the parts of a layer behind it.
    assert "it begins in convs.2" in found.location or "it begins in convs.1/Conv" in found.location


def test_a_tuned_sub_batch_is_among_those_that_are_proven(good: Bundle) -> None:
    trunk = good.manifest.trunk()
    assert sizes_of(good, trunk) == [1, 2, 3, 4]
    # 5 x 5 phases, say: 7 at a time leave 4 over.
    broad = msgspec.structs.replace(trunk, cut_window=(5, 5))
    measured = TuningMeasurement(schedule=Schedule(1, 7, trunk.lowering), frame_ms=[1.0])
    tuning = TuningRecord(
        device="cpu", backend="onnxruntime", precision=Precision.FP32, runtime="x", measurements=[measured]
    )

    class Tuned:
        class manifest:  # noqa: N801 - stands for the attribute
            @staticmethod
            def grid(_: object) -> object:
                return type("Grid", (), {"largest_sub_batch": 25})

            @staticmethod
            def schedules_of(_: object) -> list[Schedule]:
                return [Schedule(1, 16, trunk.lowering)]

        engines = ()
        target = type("Target", (), {"tunings": [tuning]})

    # 25 % 2 is 1, 25 % 3 is 1, 25 % 7 is 4, 25 % 16 is 9.
    assert sizes_of(Tuned, broad) == [1, 2, 3, 4, 7, 9, 16]  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [1, 3])
def test_every_phase_is_in_a_sub_batch_and_every_size_is_taken(good: Bundle, levels: int) -> None:
    grid = good.manifest.grid(good.manifest.trunk(levels))
    together = list(whole_groups(grid))
    assert sorted(phase for group in together for _, phase in group.entries) == grid.phases
    mixed = list(mixed_groups(grid, [1, 2, 3, 4]))
    assert {group.size for group in mixed} == {1, 2, 3, 4}
    for group in (*together, *mixed):
        # Raises for phases that cannot go together.
        grid.inner_offsets([phase for _, phase in group.entries])
    assert any({frame for frame, _ in group.entries} == {0, 1} for group in mixed)


def test_labels_that_are_wrong_from_the_second_entry_on(spoilt: Path) -> None:
    """The logits are right: only what the trunk makes of them is not."""

    def plant(model: onnx.ModelProto) -> None:
        output = model.graph.output[0].name
        first = constant(model, "first", np.array([0], np.int64))
        second = constant(model, "second", np.array([1], np.int64))
        end = constant(model, "end", np.array([2**31], np.int64))
        before_output(
            model,
            helper.make_node("Slice", ["right", first, second, first], ["head"]),
            helper.make_node("Slice", ["right", second, end, first], ["rest"]),
            helper.make_node("Cast", ["rest"], ["wide"], to=TensorProto.INT32),
            helper.make_node("Sub", ["wide", "wide"], ["none"]),
            helper.make_node("Cast", ["none"], ["zeros"], to=TensorProto.UINT8),
            helper.make_node("Concat", ["head", "zeros"], [output], axis=0),
        )

    found = the_only(
        small_frame_checks(subject_of(edited(spoilt, "trunk.onnx", edit=plant))), "logits -> labels of trunk.onnx"
    )
    assert "never in the first entry of a sub-batch" in found.location


def test_the_whole_graph_with_two_frames(spoilt: Path) -> None:
    tensor = node_of(onnx.load(spoilt / "model.onnx"), "convs.1/Conv").output[0]
    bundle = edited(spoilt, "model.onnx", edit=shifted(tensor, batch("GreaterOrEqual", 2, "frames")))
    found = the_only(small_frame_checks(subject_of(bundle)), "batches of model.onnx")
    assert found.location.startswith("model.onnx: entry ")


@pytest.mark.parametrize("graph", ["trunk-l3-reshape.onnx", "trunk-l3-reshape.fp16.onnx", "trunk-l3-strided.int8.onnx"])
def test_one_offset_out_of_many(spoilt: Path, graph: str) -> None:
    """At ((1, 0), (0, 1)): rows 0 + 2 * 1 and so on. At every other offset the graph is right."""

    def at_offset(model: onnx.ModelProto) -> str:
        wanted = constant(model, "wanted", np.array([[1, 0], [0, 1]], np.int64))
        return ahead(
            model,
            helper.make_node("Equal", ["offsets", wanted], ["same"]),
            helper.make_node("Cast", ["same"], ["digits"], to=TensorProto.INT32),
            helper.make_node("ReduceMin", ["digits"], ["flag"], keepdims=0),
        )

    tensor = node_of(onnx.load(spoilt / graph), "convs.2/Conv").output[0]
    bundle = edited(spoilt, graph, edit=shifted(tensor, at_offset))
    found = the_only(small_frame_checks(subject_of(bundle)), f"model.onnx -> {graph}")
    assert "at 1 of 16 inner offsets: [(1, 0), (0, 1)]" in found.location
    assert "convs.3 " in found.location


def rounded(values: np.ndarray, bits: int) -> np.ndarray:
    """To so many bits of significand."""
    significand, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.rint(significand * 2**bits) / 2**bits, exponent)


def test_weights_of_bf16_in_a_layer_of_an_fp16_graph(spoilt: Path) -> None:
    def plant(model: onnx.ModelProto) -> None:
        set_parameter(model, "convs.2/Conv", 1, lambda weight: rounded(weight, 8))

    bundle = edited(spoilt, "trunk.fp16.onnx", edit=plant)
    found = the_only(constant_checks(subject_of(bundle)), "weights of trunk.fp16.onnx")
    assert found.location == "trunk.fp16.onnx: weights of convs.2"
    # bf16 has 8 bits where float16 has 11: half a step is 4 of its steps.
    assert 3.5 < found.value <= 4.5  # type: ignore[operator]


def test_activations_of_four_bits(spoilt: Path) -> None:
    def plant(model: onnx.ModelProto) -> None:
        source = node_of(model, "convs.1/Conv").output[0]
        # (x * 17) - (x * 17 - x) with a significand of 11 bits leaves about 7 of them; * 129 leaves four.
        factor = constant(model, "factor", np.array(129, np.float16))
        model.graph.value_info.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT16, None) for name in ("large", "less", "faulty")
        )
        after(
            model,
            source,
            helper.make_node("Mul", [source, factor], ["large"], name="fewer/Mul"),
            helper.make_node("Sub", ["large", source], ["less"], name="fewer/Sub"),
            helper.make_node("Sub", ["large", "less"], ["faulty"], name="fewer/Sub_1"),
        )

    bundle = edited(spoilt, "trunk.fp16.onnx", edit=plant)
    found = the_only(
        (check for check in small_frame_checks(subject_of(bundle)) if check.kind is Kind.PRECISION),
        "own error of each operator of trunk.fp16.onnx",
    )
    assert found.location.startswith("trunk.fp16.onnx: convs.2, by ")


def test_scales_of_another_network(spoilt: Path, good: Bundle) -> None:
    assert good.manifest.calibration is not None
    foreign = {name: held * factor for (name, held), factor in zip(good.manifest.calibration.ranges.items(),
                                                                  (0.6, 1.7, 0.8, 2.5, 1.4), strict=True)}  # fmt: skip

    def plant(model: onnx.ModelProto) -> None:
        for name, largest in foreign.items():
            set_initializer(model, f"{name}.input.scale", np.array(largest / 127, np.float32))

    bundle = edited(spoilt, "trunk.int8.onnx", edit=plant)
    found = the_only(
        (check for check in constant_checks(subject_of(bundle)) if "scales" in check.name), "scales of trunk.int8.onnx"
    )
    assert "trunk.int8.onnx: scale of the input of " in found.location


def set_initializer(model: onnx.ModelProto, name: str, values: np.ndarray) -> None:
    held = next(held for held in model.graph.initializer if held.name == name)
    held.CopyFrom(numpy_helper.from_array(values, name))


def test_one_scale_that_is_half_of_what_it_was(spoilt: Path) -> None:
    def plant(model: onnx.ModelProto) -> None:
        name = "convs.2.input.scale"
        held = numpy_helper.to_array(next(held for held in model.graph.initializer if held.name == name))
        set_initializer(model, name, held / 2)

    bundle = edited(spoilt, "trunk.int8.onnx", edit=plant)
    weights, scales = failed(constant_checks(subject_of(bundle)))
    assert (scales.name, scales.value) == ("scales of trunk.int8.onnx", pytest.approx(2, rel=0.6))
    assert scales.location == "trunk.int8.onnx: scale of the input of convs.2"
    # A bias is a whole number of products of the scales, and these are others now.
    assert weights.location == "trunk.int8.onnx: bias of convs.2"


def test_a_range_that_is_too_small_everywhere_is_seen_by_what_it_cuts_off(spoilt: Path, good: Bundle) -> None:
    """The manifest agrees with the graph: only the activations tell."""
    calibration = good.manifest.calibration
    assert calibration is not None
    ranges = calibration.ranges | {"convs.2": calibration.ranges["convs.2"] / 16}

    def plant(model: onnx.ModelProto) -> None:
        name = "convs.2.input.scale"
        held = numpy_helper.to_array(next(held for held in model.graph.initializer if held.name == name))
        set_initializer(model, name, held / 16)

    edited(spoilt, "trunk.int8.onnx", edit=plant)
    bundle = sealed(spoilt, calibration=msgspec.structs.replace(calibration, ranges=ranges))
    checks = [check for check in small_frame_checks(subject_of(bundle)) if "saturation" in check.name]
    found = the_only(checks, "saturation of trunk.int8.onnx")
    assert found.location == "trunk.int8.onnx: input of convs.2"


@pytest.mark.parametrize("widened", [False, True], ids=["same scale", "wider scale"])
def test_weights_of_five_bits_in_an_int8_graph(spoilt: Path, widened: bool) -> None:
    """Whole numbers in steps of 8, or up to 15 with a scale that is 8 times as large."""

    def plant(model: onnx.ModelProto) -> None:
        back = next(
            node for node in model.graph.node
            if node.op_type == "DequantizeLinear" and node.output[0] == node_of(model, "convs.2/Conv").input[1]
        )  # fmt: skip
        values, scales = (
            numpy_helper.to_array(next(held for held in model.graph.initializer if held.name == name))
            for name in back.input[:2]
        )
        coarse = np.clip(np.rint(values / 8), -15, 15)
        set_initializer(model, back.input[0], (coarse if widened else coarse * 8).astype(np.int8))
        set_initializer(model, back.input[1], scales * (8 if widened else 1))

    bundle = edited(spoilt, "trunk.int8.onnx", edit=plant)
    found = failed(constant_checks(subject_of(bundle)))
    wanted = ["scale of the weights of convs.2"] if widened else ["weights of convs.2"]
    assert [check.location for check in found][-1:] == [f"trunk.int8.onnx: {held}" for held in wanted]


def test_own_errors_are_below_one_rounding(good: Bundle) -> None:
    """fp16: half a step; int8: nothing, since its sums are exact."""
    subject = subject_of(good)
    checks = [check for check in small_frame_checks(subject) if check.name.startswith("own error")]
    assert len(checks) == 8
    for check in checks:
        assert check.value is not None
        if check.precision is Precision.INT8:
            assert check.value == 0
        else:
            assert 0.3 < check.value < 0.516


def references_recomputed(path: Path) -> None:
    """PyTorch's logits in place of which stand those of the bundle's own ``model.onnx``."""
    bundle = Bundle.open(path)
    session = onnxruntime.InferenceSession(str(path / "model.onnx"), providers=["CPUExecutionProvider"])
    edges = bundle.manifest.edges
    assert edges is not None

    def logits(image: np.ndarray, phase: tuple[int, int], window: tuple[int, int]) -> np.ndarray:
        whole = session.run(None, {"frames": image[None]})[0][0]
        return np.asarray(whole[:, phase[0] :: window[0], phase[1] :: window[1]])

    for frame in reference_frames(bundle):
        assert frame.case is not None
        np.save(path / frame.case.logits, logits(frame.image, frame.case.phase, frame.case.window))
    from engines.bundle.edges import edge_frame

    images = [edge_frame(kind, SIZE) for kind in edges.frames]
    held = [logits(image, phase, edges.window) for image, phase in zip(images, edges.phases, strict=True)]
    np.save(path / edges.logits, np.stack(held))


def test_references_that_agree_with_the_fault(spoilt: Path, network: nn.Module) -> None:
    """A bias lost in every graph, and what should be PyTorch's logits computed from them."""
    graphs = [path.name for path in spoilt.glob("*.onnx") if path.name != "prepare.onnx"]

    def plant(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            if node.name.startswith("convs.1/Conv"):
                set_parameter(model, node.name, 2, np.zeros_like)

    edited(spoilt, *graphs, edit=plant)
    references_recomputed(spoilt)
    bundle = sealed(spoilt)
    alone = validate(bundle, quick=True, keep=False)
    assert alone.verdict is Status.PASSED
    assert "only the network of the checkpoint shows that weights and stored logits are its own" in "".join(
        alone.not_proven
    )
    subject = subject_of(bundle, network)
    walked = next(iter(walked_frames(subject)))
    found = failed(frame_checks(subject, walked))
    assert next((check.name, check.location) for check in found) == (
        "PyTorch, run anew -> reference/logits-0.npy",
        "reference/logits-0.npy: not what the network computes for it",
    )
    assert any(check.hop == ("PyTorch, run anew", "trunk.onnx") and "convs.1 " in check.location for check in found)
    # The stored logits of the generated frames, too.
    assert {check.graph for check in failed(edge_checks(subject))} >= {"reference/edges.npy"}


def test_another_network_is_told_by_its_parameters(good: Bundle, network: nn.Module) -> None:
    (right,) = origin_checks(subject_of(good, network))
    assert (right.status, right.value) == (Status.PASSED, 0)
    assert digest_of_parameters(network) == good.manifest.network.parameters_sha256
    (wrong,) = origin_checks(subject_of(good, three_levels(seed=6)))
    assert wrong.failed
    assert wrong.location == "manifest.json: the bundle was exported from other parameters"


def dark(model: onnx.ModelProto, source: str, limit: float) -> str:
    """Whether nothing in the input is above a limit."""
    bound = constant(model, "bound", np.array(limit, np.float32))
    return ahead(
        model,
        helper.make_node("Cast", [source], ["plain"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["plain"], ["most"], keepdims=0),
        helper.make_node("Less", ["most", bound], ["flag"]),
    )


def test_a_fault_on_dark_frames_only_in_every_graph(spoilt: Path) -> None:
    """Normalised, 15 of 255 is at most -1.5 and white 2.6; planes have a border of zeros, as black as grey."""
    for graph in ("trunk.onnx", "model.onnx"):
        source, limit = ("windows", 0.5) if graph.startswith("trunk") else ("frames", 20)
        tensor = node_of(onnx.load(spoilt / graph), "convs.1/Conv").output[0]
        edited(spoilt, graph, edit=shifted(tensor, lambda model, s=source, b=limit: dark(model, s, b)))  # type: ignore[misc]
    bundle = Bundle.open(spoilt)
    found = the_only(edge_checks(subject_of(bundle)), "PyTorch -> trunk.onnx")
    assert "trunk.onnx: on " in found.location
    assert {"black frame", "dark frame"} <= set(found.location.partition(": on ")[2].partition(";")[0].split(", "))
    assert "white frame" not in found.location


def test_a_fault_on_dark_frames_only_in_one_trunk(spoilt: Path) -> None:
    tensor = node_of(onnx.load(spoilt / "trunk-l3-reshape.fp16.onnx"), "convs.1/Conv").output[0]
    plant = shifted(tensor, lambda model: dark(model, "windows", 0.5))
    bundle = edited(spoilt, "trunk-l3-reshape.fp16.onnx", edit=plant)
    found = the_only(
        (check for check in small_frame_checks(subject_of(bundle)) if check.kind is Kind.HOP),
        "model.onnx -> trunk-l3-reshape.fp16.onnx",
    )
    assert "frames alone" in found.location
    assert EdgeFrame.DARK.value in found.location


def cropped(model: onnx.ModelProto) -> None:
    """One row less in the output."""
    output = model.graph.output[0]
    axis = len(output.type.tensor_type.shape.dim) - 2
    bounds = {"start": [0], "stop": [-1], "along": [axis]}
    names = [constant(model, name, np.array(values, np.int64)) for name, values in bounds.items()]
    before_output(model, helper.make_node("Slice", ["right", *names], [output.name]))
    output.type.tensor_type.shape.dim[axis].Clear()


def test_a_trunk_of_another_output_shape_is_a_finding(spoilt: Path) -> None:
    bundle = edited(spoilt, "trunk.onnx", edit=cropped)
    subject = subject_of(bundle)
    walked = next(iter(walked_frames(subject)))
    (found,) = failed(frame_checks(subject, walked))
    assert found.location == "trunk.onnx: its output has another shape"
    assert found.detail == "broke: gives labels of (1, 23, 32) where (1, 24, 32) are expected"
    assert validate(bundle, keep=False).verdict is Status.FAILED


def test_a_whole_graph_of_another_output_shape_is_a_finding(spoilt: Path) -> None:
    bundle = edited(spoilt, "model.onnx", edit=cropped)
    found = failed(whole_checks(subject_of(bundle), {}))
    assert {check.location for check in found} == {"model.onnx: its output has another shape"}
    assert found[0].detail == "gives (5, 47, 64) where (5, 48, 64) are expected"
    assert validate(bundle, keep=False).verdict is Status.FAILED


def test_another_trunk_of_another_output_shape_is_a_finding(spoilt: Path) -> None:
    bundle = edited(spoilt, "trunk-l1-strided.fp16.onnx", edit=cropped)
    (found,) = failed(other_trunk_checks(subject_of(bundle)))
    assert found.location == "trunk-l1-strided.fp16.onnx: its output has another shape"


def test_a_sample_of_the_real_frame_changes_with_the_rotation(good: Bundle) -> None:
    grid = good.manifest.grid(good.manifest.trunk(3))
    samples = {tuple(sampled_phases(grid, rotation)) for rotation in range(20)}
    assert len(samples) > 10
    assert all(len(grid.inner_offsets(list(phases))) for phases in samples)
    subject = Subject(good, reference_frames(good), rotation=3)
    walked = next(iter(walked_frames(subject)))
    sampled = walked.sampled(sampled_phases(walked.grid, 3))
    assert sampled is not None
    checks = list(real_frame_checks(subject, sampled))
    assert {check.status for check in checks} == {Status.PASSED}
    assert all("rotation 3" in check.subject for check in checks)


class Deep(nn.Module):
    """Ten layers behind a split, without statistics and untrained."""

    def __init__(self) -> None:
        super().__init__()
        self.split = SplitPool2d(2)
        self.convs = nn.ModuleList(nn.Conv2d(3 if index == 0 else 12, 12, 3, padding=1) for index in range(10))
        self.head, self.merge = nn.Conv2d(12, 8, 1), MergePool2d(self.split)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, conv in enumerate(self.convs):
            x = torch.relu(conv(x) if index else self.split(conv(x)))
        return self.merge(self.head(x))


def test_int8_of_an_untrained_network_is_no_failure(tmp_path: Path) -> None:
    """Four labels in five are those of fp32: all others are nearly tied."""
    torch.manual_seed(0)
    network = Deep().eval()
    with torch.no_grad():
        frame = torch.from_numpy(noise_frame(SIZE, seed=1)).movedim(-1, 0)[None] / 64 - 2
        network.head.bias -= network(frame).mean((0, 2, 3))
    frames = [noise_frame(SIZE, seed) for seed in (40, 41)]
    only = {"levels": 1, "lowerings": "reshape", "precisions": "int8"}
    bundle = export(network, tmp_path / "bundle", size=SIZE, calibration_frames=frames, **only)  # type: ignore[arg-type]
    checks = list(checks_of(Subject(bundle, reference_frames(bundle), quick=True)))
    (labels,) = [check for check in checks if check.kind is Kind.LABELS]
    assert labels.status is Status.NOT_RUN
    assert "closer than int8 moves them, as in a network that is not trained" in labels.detail
    agreement = float(labels.detail.partition(" of pixels")[0].rpartition("(")[2].rstrip("%"))
    assert 70 < agreement < 90
    assert failed(checks) == []


def test_int8_labels_that_a_fault_changed_fail(spoilt: Path) -> None:
    """Classes exchanged behind the logits: far apart, and no closeness excuses that."""

    def plant(model: onnx.ModelProto) -> None:
        set_parameter_of_head(model)

    def set_parameter_of_head(model: onnx.ModelProto) -> None:
        source = node_of(model, "head/Conv").output[0]
        order = constant(model, "order", np.array([1, 0, 2, 3, 4], np.int64))
        after(model, source, helper.make_node("Gather", [source, order], ["faulty"], axis=1))

    subject = subject_of(edited(spoilt, "trunk.int8.onnx", edit=plant))
    from converters.verification.agreements import agreement_of, compared_labels

    (walked,) = walked_frames(subject)
    compared = [held for held in compared_labels(subject, walked) if held.precision is Precision.INT8]
    agreements = {Precision.INT8: agreement_of(subject, compared)}
    checks = [check for check in label_checks(subject, compared, agreements, {}) if check.kind is Kind.LABELS]
    assert [check.status for check in checks if check.precision is Precision.INT8] == [Status.FAILED]


def test_the_quick_proof_says_what_it_left_out(good: Bundle) -> None:
    record = validate(good, quick=True, keep=False)
    left = [line for line in record.not_proven if "left out by quick=True" in line]
    assert len(left) == 1
    assert "every phase, offset and sub-batch of 12 graphs" in left[0]
    assert not [check for check in record.checks if "generated" in check.subject and check.value is not None]


def test_own_errors_run_on_their_own(good: Bundle) -> None:
    """A form at the bundle's own size serves as well."""
    from converters.verification.forms import FrameForm

    form = FrameForm(good, SIZE, SIZE)
    assert form.own
    planes = form.planes([noise_frame(SIZE, 0)])[0]
    checks = list(own_error_checks(subject_of(good), form, planes))
    assert failed(checks) == []
