"""Planted faults: each is found, and its layer, phase or hop is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from torch import nn

from converters.verification import Subject, checks_of, reference_frames
from engines import Bundle, Precision, Schedule
from engines.bundle.manifest import ClassRecord, EngineRecord
from engines.bundle.records import Check, Status, json_from_record
from tests.converters.three_levels import SIZE
from tests.converters.verification.faults import (
    after,
    before_output,
    constant,
    edited,
    node_of,
    parameter_of,
    sealed,
    set_attribute,
    set_parameter,
)
from tests.records import build_record


def failures(bundle: Bundle, network: nn.Module | None = None) -> list[Check]:
    return [check for check in checks_of(Subject(bundle, reference_frames(bundle), network=network)) if check.failed]


def assert_found(found: list[Check], name: str, location: str) -> None:
    """One of the failures is of this hop and names this place."""
    assert any(name in check.name and location in check.location for check in found), "\n".join(
        f"{check.name}: {check.location} ({check.value})" for check in found
    )


def trunks(bundle: Path) -> list[str]:
    return sorted(path.name for path in bundle.glob("trunk*.onnx"))


def test_a_good_bundle_has_no_fault(good: Bundle, network: nn.Module) -> None:
    checks = list(checks_of(Subject(good, reference_frames(good), network=network)))
    assert not [check for check in checks if check.failed]
    assert {check.name for check in checks if check.status is Status.NOT_RUN} == {
        "mean IoU of fp32 -> fp16",
        "fp16 graph -> engine",
    }


def split_of(model: onnx.ModelProto, level: int) -> str:
    return [node.name for node in model.graph.node if node.op_type == "Transpose" and "split" in node.name][level]


def test_rows_and_columns_exchanged_in_a_split(spoilt: Path) -> None:
    """``(n h w) c i j`` with h and w exchanged: every phase lands at the mirrored place."""

    def exchange(model: onnx.ModelProto) -> None:
        node = node_of(model, split_of(model, 0))
        order = list(node.attribute[0].ints)
        order[1], order[2] = order[2], order[1]
        set_attribute(model, node.name, "perm", order)

    found = failures(edited(spoilt, "model.onnx", edit=exchange))
    assert_found(found, "model.onnx -> merged phases", "rows and columns of the phases are exchanged at level 1")
    assert_found(found, "model.onnx -> merged phases", "phase (0, 1) holds what belongs to phase (1, 0)")


def test_merges_in_the_wrong_order(spoilt: Path) -> None:
    """The outermost level's window taken last: the digits of every phase are reversed."""

    def reverse(model: onnx.ModelProto) -> None:
        # One reshape and transpose for all three merges, with the levels in reverse.
        head = node_of(model, "head/Conv").output[0]
        output = model.graph.output[0].name
        del model.graph.node[[node.name for node in model.graph.node].index("head/Conv") + 1 :]
        h, w = SIZE[0] // 8, SIZE[1] // 8
        # Batch (p1 p2 p3) of 2x2 each; right is i p3 p2 p1, planted is i p1 p2 p3.
        constant(model, "cut", np.array([2, 2, 4, 2, 2, 5 * h * w], np.int64))
        constant(model, "joined", np.array([64, 5, h, w], np.int64))
        model.graph.node.append(helper.make_node("Reshape", [head, "cut"], ["levels"]))
        model.graph.node.append(helper.make_node("Transpose", ["levels"], ["turned"], perm=[3, 4, 2, 0, 1, 5]))
        model.graph.node.append(helper.make_node("Reshape", ["turned", "joined"], ["batches"]))
        constant(model, "nested", np.array([1, 2, 2, 2, 2, 2, 2, 5, h, w], np.int64))
        constant(model, "full", np.array([1, 5, *SIZE], np.int64))
        model.graph.node.append(helper.make_node("Reshape", ["batches", "nested"], ["apart"]))
        order = [0, 7, 8, 5, 3, 1, 9, 6, 4, 2]
        model.graph.node.append(helper.make_node("Transpose", ["apart"], ["together"], perm=order))
        model.graph.node.append(helper.make_node("Reshape", ["together", "full"], [output]))

    found = failures(edited(spoilt, "model.onnx", edit=reverse))
    assert_found(found, "model.onnx -> merged phases", "the levels of the merges are in the wrong order")


@pytest.mark.parametrize("graph", ["trunk.onnx", "trunk-l1-strided.onnx", "model.onnx"])
def test_zero_padding_off_by_one_at_level_3(spoilt: Path, graph: str) -> None:
    """One row and column less before, one more after: everything moves by one, and the border is wrong."""

    def shift(model: onnx.ModelProto) -> None:
        set_attribute(model, "convs.3/Conv", "pads", [0, 0, 2, 2])

    found = failures(edited(spoilt, graph, edit=shift))
    assert_found(found, f"-> {graph}", f"{graph}: convs.3")


@pytest.mark.parametrize("graph", ["prepare.onnx", "model.onnx"])
def test_normalisation_twice(spoilt: Path, graph: str) -> None:
    def again(model: onnx.ModelProto) -> None:
        shift = next(node for node in model.graph.node if node.op_type == "Add")
        mean = constant(model, "mean", np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1))
        std = constant(model, "std", np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1))
        after(
            model,
            shift.output[0],
            helper.make_node("Sub", [shift.output[0], mean], ["centred"]),
            helper.make_node("Div", ["centred", std], ["faulty"]),
        )

    found = failures(edited(spoilt, graph, edit=again))
    # What stands behind the normalisation of model.onnx might be the network's own: only its results tell.
    hop = "PyTorch -> model.onnx" if graph == "model.onnx" else f"normalised by {graph}"
    assert_found(found, hop, f"{graph}: the normalisation is applied twice")


@pytest.mark.parametrize("graph", ["prepare.onnx", "model.onnx"])
def test_bgr(spoilt: Path, graph: str) -> None:
    def reverse(model: onnx.ModelProto) -> None:
        cast = next(node for node in model.graph.node if node.op_type == "Cast")
        order = constant(model, "bgr", np.array([2, 1, 0], np.int64))
        after(model, cast.output[0], helper.make_node("Gather", [cast.output[0], order], ["faulty"], axis=-1))

    found = failures(edited(spoilt, graph, edit=reverse))
    assert_found(found, f"normalised by {graph}", f"{graph}: channels are read as BGR")


def without_bias(model: onnx.ModelProto) -> None:
    set_parameter(model, "convs.1/Conv", 2, np.zeros_like)


def test_a_bias_lost_in_one_graph(spoilt: Path) -> None:
    found = failures(edited(spoilt, "trunk.onnx", edit=without_bias))
    assert_found(found, "PyTorch -> trunk.onnx", "trunk.onnx: convs.1 ")


def test_a_bias_lost_in_every_graph(spoilt: Path, network: nn.Module) -> None:
    """Then no graph is right: PyTorch, run anew, names the layer; without it the answer says what to do."""
    graphs = [name for name in (*trunks(spoilt), "model.onnx") if "strided" not in name]
    bundle = edited(spoilt, *graphs, edit=without_bias)
    assert_found(failures(bundle, network), "PyTorch -> trunk.onnx", "trunk.onnx: convs.1 ")
    assert_found(failures(bundle, network), "PyTorch -> model.onnx", "model.onnx: convs.1 ")
    assert_found(failures(bundle), "PyTorch -> trunk.onnx", "give the network of the checkpoint")


def test_a_batch_norm_not_folded_right(spoilt: Path, network: nn.Module) -> None:
    """The weights scaled by gamma over the standard deviation, without epsilon in it."""
    norm = network.get_submodule("norms.2")
    assert isinstance(norm, nn.BatchNorm2d)
    variance = norm.running_var.numpy()  # type: ignore[union-attr]
    factor = np.sqrt((variance + 0.05) / variance)

    def scale(model: onnx.ModelProto) -> None:
        set_parameter(model, "convs.2/Conv", 1, lambda weight: weight * factor[:, None, None, None])

    bundle = edited(spoilt, "model.onnx", "trunk.onnx", edit=scale)
    found = failures(bundle, network)
    assert_found(found, "PyTorch -> model.onnx", "model.onnx: convs.2 ")
    assert_found(found, "PyTorch -> trunk.onnx", "trunk.onnx: convs.2 ")


def test_an_overflow_of_fp16_in_one_layer(spoilt: Path) -> None:
    """Weights 1e5 times larger in one layer and smaller in the next: the same function in fp32."""
    factor = 2.0**17

    def up(model: onnx.ModelProto) -> None:
        # Scaled after the convolution: no half-precision weight holds such a factor.
        output = node_of(model, "convs.1/Conv").output[0]
        half = parameter_of(model, "convs.1/Conv", 1)[0].data_type == TensorProto.FLOAT16
        dtype = np.float16 if half else np.float32
        root = constant(model, "up", np.array(factor**0.5, dtype))
        down = constant(model, "down", np.array(1 / factor, dtype))
        after(
            model,
            output,
            helper.make_node("Mul", [output, root], ["larger"], name="scale/Mul"),
            helper.make_node("Mul", ["larger", root], ["largest"], name="scale/Mul_1"),
            helper.make_node("Mul", ["largest", down], ["faulty"], name="scale/Mul_2"),
        )
        kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
        model.graph.value_info.extend(
            helper.make_tensor_value_info(name, kind, None) for name in ("larger", "largest", "faulty")
        )

    found = failures(edited(spoilt, "trunk.onnx", "trunk.fp16.onnx", edit=up))
    assert_found(found, "overflow of fp16", "scale/Mul_1")
    assert_found(found, "NaN and Inf in trunk.fp16.onnx", "trunk.fp16.onnx: scale/Mul_1")
    assert_found(found, "trunk.onnx -> trunk.fp16.onnx", "trunk.fp16.onnx: convs.2 is not finite")


@pytest.mark.parametrize("graph", ["trunk.onnx", "trunk.fp16.onnx"])
def test_a_result_that_depends_on_the_batch(spoilt: Path, graph: str) -> None:
    """Each phase is pulled towards the mean of its sub-batch: nothing is wrong with a sub-batch of one."""

    def mix(model: onnx.ModelProto) -> None:
        source = node_of(model, "convs.0/Conv").output[0]
        axis = constant(model, "axis", np.array([0], np.int64))
        after(
            model,
            source,
            helper.make_node("ReduceMean", [source, axis], ["mean"], keepdims=1),
            helper.make_node("Add", [source, "mean"], ["sum"]),
            helper.make_node("Sub", ["sum", source], ["only"]),
            helper.make_node("Add", [source, "only"], ["twice"]),
            helper.make_node("Sub", ["twice", source], ["faulty"]),
        )

    found = failures(edited(spoilt, graph, edit=mix))
    # On a sample of the real frame, and on every phase of small ones.
    assert [check.name for check in found] == [f"sub-batches of {graph}"] * 2
    assert_found(
        found, f"sub-batches of {graph}", f"{graph}: results depend on the sub-batch (wrong in sub-batches of 2"
    )


def test_an_engine_built_from_other_weights(spoilt: Path, good: Bundle) -> None:
    """The record of the build names hashes; those of the weights are another bundle's."""
    (spoilt / "engines").mkdir()
    files = dict(good.manifest.files)
    for name in ("a.engine", "p.engine"):
        (spoilt / "engines" / name).write_bytes(name.encode())
    from engines.bundle.contents import record_of_file

    files |= {f"engines/{name}": record_of_file(spoilt / "engines" / name) for name in ("a.engine", "p.engine")}
    record = build_record(
        graph_sha256=files["trunk.fp16.onnx"].sha256,
        prepare_sha256=files["prepare.onnx"].sha256,
        plan_sha256=files["engines/a.engine"].sha256,
        prepare_plan_sha256=files["engines/p.engine"].sha256,
        weights_sha256="0" * 64,
    )
    (spoilt / "engines" / "a.json").write_bytes(json_from_record(record))
    files["engines/a.json"] = record_of_file(spoilt / "engines" / "a.json")
    engine = EngineRecord(
        engine="engines/a.engine",
        prepare="engines/p.engine",
        record="engines/a.json",
        backend="tensorrt-rtx",
        precision=Precision.FP16,
        schedule=Schedule(1),
    )
    found = failures(sealed(spoilt, engines=[engine]))
    assert [check.name for check in found] == ["provenance of the engine"]
    assert found[0].location == "engines/a.engine: built from other weights"


def test_an_fp16_graph_that_is_fp32(spoilt: Path) -> None:
    shutil.copy(spoilt / "trunk.onnx", spoilt / "trunk.fp16.onnx")
    found = failures(sealed(spoilt))
    assert [check.name for check in found] == ["precision of trunk.fp16.onnx"]
    assert found[0].location == "trunk.fp16.onnx: every layer computes in fp32"


def test_one_layer_of_an_fp16_graph_that_is_fp32(spoilt: Path) -> None:
    def widen(model: onnx.ModelProto) -> None:
        """The second convolution computes in fp32, its weights are still stored in fp16."""
        nodes = model.graph.node
        place, layer = [(index, node) for index, node in enumerate(nodes) if node.op_type == "Conv"][1]
        wide = f"{layer.name}_wide"
        casts = [helper.make_node("Cast", [name], [f"{wide}:{name}"], to=TensorProto.FLOAT) for name in layer.input]
        narrow = helper.make_node("Cast", [wide], [layer.output[0]], to=TensorProto.FLOAT16)
        layer.input[:], layer.output[:] = [cast.output[0] for cast in casts], [wide]
        shape = next(value.type.tensor_type.shape for value in model.graph.value_info if value.name == narrow.output[0])
        value = model.graph.value_info.add(name=wide)
        value.type.tensor_type.elem_type = TensorProto.FLOAT
        value.type.tensor_type.shape.CopyFrom(shape)
        nodes.insert(place + 1, narrow)
        for cast in casts:
            nodes.insert(place, cast)

    bundle = edited(spoilt, "trunk.fp16.onnx", edit=widen)
    names = [node.name for node in onnx.load(spoilt / "trunk.fp16.onnx").graph.node if node.op_type == "Conv"]
    found = failures(bundle)
    assert [(check.name, check.value) for check in found] == [("precision of trunk.fp16.onnx", 1)]
    assert found[0].location == f"trunk.fp16.onnx: {names[1]} computes in fp32"


@pytest.mark.parametrize("graph", ["trunk.onnx", "trunk.fp16.onnx"])
def test_labels_shifted_by_one_pixel(spoilt: Path, graph: str) -> None:
    def shift(model: onnx.ModelProto) -> None:
        output = model.graph.output[0].name
        width = SIZE[1] // 2
        order = constant(model, "order", np.array([0, *range(width - 1)], np.int64))
        before_output(model, helper.make_node("Gather", ["right", order], [output], axis=2))

    found = failures(edited(spoilt, graph, edit=shift))
    assert_found(found, f"logits -> labels of {graph}", "labels are shifted by (0, 1)")


def test_a_class_swapped_in_the_palette_is_no_fault_of_numbers(spoilt: Path, good: Bundle) -> None:
    a, b, *rest = good.manifest.classes
    swapped = [ClassRecord(name=a.name, color=b.color), ClassRecord(name=b.name, color=a.color), *rest]
    assert swapped[0].color != a.color
    assert not failures(sealed(spoilt, classes=swapped))
