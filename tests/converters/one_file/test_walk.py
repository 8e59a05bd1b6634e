"""The cut and the merge inside a packed file, against plain slices: a trunk that gives pixels must give the frame."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from converters.one_file.assembling import packed_model
from converters.one_file.forms import InputForm, LoopForm, OutputForm
from converters.one_file.walk import Walk
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.bundle.manifest import OutputKind
from engines.errors import BundleError, InputError
from engines.schedules.phases import PhaseGrid

WITHOUT_INNER = PhaseGrid((9, 14), (12, 16), (3, 2), (2, 1, 0, 3))
ONE_INNER = PhaseGrid((24, 24), (24, 24), (2, 2), (1, 1, 1, 1), ((3, 2),))
TWO_INNER = PhaseGrid((23, 48), (24, 48), (2, 1), (0, 0, 0, 0), ((2, 2), (3, 4)))
WHOLE = PhaseGrid((5, 7), (5, 7), (1, 1), (1, 2, 3, 4))


def prepare_of(grid: PhaseGrid) -> ir.Model:
    """Planes of the frame with zeros around it: factors of one, so that pixels stay whole numbers."""
    top, left, bottom, right = grid.border
    below, beside = grid.padded_size[0] - grid.frame_size[0], grid.padded_size[1] - grid.frame_size[1]
    h, w = grid.frame_size
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 18]>
        prepare (uint8[{h},{w},3] frame) => (float[3,{grid.planes_size[0]},{grid.planes_size[1]}] planes)
        <float[3,1,1] scale = {{1, 1, 1}}, float[3,1,1] shift = {{0, 0, 0}},
         int64[6] pads = {{0, {top}, {left}, 0, {bottom + below}, {right + beside}}}>
        {{
            cast = Cast <to = 1> (frame)
            turned = Transpose <perm = [2, 0, 1]> (cast)
            scaled = Mul (turned, scale)
            shifted = Add (scaled, shift)
            planes = Pad (shifted, pads)
        }}""")


def trunk_of(grid: PhaseGrid, kind: OutputKind = OutputKind.LABELS) -> ir.Model:
    """Gives the pixels of its phase: the first channel as a label, or all three as maps."""
    top, left, *_ = grid.border
    (g, f), (h, w) = grid.cut_window, grid.padded_size
    offsets = f", int64[{len(grid.inner_windows)},2] offsets" if grid.inner_windows else ""
    lines = [
        # A window begins at its phase, within the border.
        f"starts = Constant <value = int64[2] {{{top}, {left}}}> ()",
        f"ends = Constant <value = int64[2] {{{top + h - g + 1}, {left + w - f + 1}}}> ()",
        "axes = Constant <value = int64[2] {2, 3}> ()",
        f"steps = Constant <value = int64[2] {{{g}, {f}}}> ()",
        "level_0 = Slice (windows, starts, ends, axes, steps)",
        "zero = Constant <value_int = 0> ()",
        "one = Constant <value_int = 1> ()",
    ]
    size = (h // g, w // f)
    for index, window in enumerate(grid.inner_windows):
        size = size[0] // window[0], size[1] // window[1]
        lines += [f"i{index} = Constant <value_int = {index}> ()", f"pair_{index} = Gather (offsets, i{index})"]
        held = f"level_{index}"
        for axis, (name, side, step) in enumerate(zip("rc", size, window, strict=True)):
            places = ", ".join(str(step * place) for place in range(side))
            lines += [
                f"{name}{index}_at = Gather (pair_{index}, {('zero', 'one')[axis]})",
                f"{name}{index}_all = Constant <value = int64[{side}] {{{places}}}> ()",
                f"{name}{index} = Add ({name}{index}_at, {name}{index}_all)",
                f"{name}{index}_held = Gather <axis = {axis + 2}> ({held}, {name}{index})",
            ]
            held = f"{name}{index}_held"
        lines.append(f"level_{index + 1} = Identity ({held})")
    last = f"level_{len(grid.inner_windows)}"
    if kind is OutputKind.LABELS:
        lines += [f"red = Gather <axis = 1> ({last}, zero)", "result = Cast <to = 2> (red)"]
        result = f"uint8[phases,{size[0]},{size[1]}] result"
    else:
        lines += [f"result = Identity ({last})"]
        result = f"float[phases,3,{size[0]},{size[1]}] result"
    body = "\n".join(lines)
    crop = grid.crop_size
    return ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 18]>
        trunk (float[phases,3,{crop[0]},{crop[1]}] windows{offsets}) => ({result})
        {{
            {body}
        }}""")


def packed(grid: PhaseGrid, sub_batch: int, loop: LoopForm, gives: OutputForm) -> bytes:
    model = packed_model(
        prepare_of(grid),
        trunk_of(grid, gives.kind),
        Walk(grid, sub_batch),
        loop=loop,
        takes=InputForm(),
        gives=gives,
        classes=3,
    )
    content: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    onnx.checker.check_model(content, full_check=True)
    return content


@pytest.mark.parametrize("loop", LoopForm)
@pytest.mark.parametrize(
    ("grid", "sub_batch"),
    [(WITHOUT_INNER, 1), (WITHOUT_INNER, 4), (WITHOUT_INNER, 6), (ONE_INNER, 3), (ONE_INNER, 4), (WHOLE, 1)],
)
def test_a_trunk_that_gives_pixels_gives_the_frame(grid: PhaseGrid, sub_batch: int, loop: LoopForm) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (*grid.frame_size, 3), dtype=np.uint8)
    with OnnxRuntimeRunner(packed(grid, sub_batch, loop, OutputForm())) as runner:
        (labels,) = runner.infer({"frame": frame}).values()
    np.testing.assert_array_equal(labels, frame[..., 0])
    with OnnxRuntimeRunner(packed(grid, sub_batch, loop, OutputForm(OutputKind.LOGITS, "chw"))) as runner:
        (maps,) = runner.infer({"frame": frame}).values()
    np.testing.assert_array_equal(maps, np.moveaxis(frame, -1, 0).astype(np.float32))


@pytest.mark.parametrize("sub_batch", [1, 2])
def test_offsets_of_several_inner_levels_follow_from_the_iteration(sub_batch: int) -> None:
    frame = np.random.default_rng(1).integers(0, 256, (*TWO_INNER.frame_size, 3), dtype=np.uint8)
    with OnnxRuntimeRunner(packed(TWO_INNER, sub_batch, LoopForm.LOOP, OutputForm())) as runner:
        (labels,) = runner.infer({"frame": frame}).values()
    np.testing.assert_array_equal(labels, frame[..., 0])


@pytest.mark.parametrize(
    ("grid", "sub_batch", "trips"), [(WITHOUT_INNER, 4, 2), (ONE_INNER, 3, 12), (TWO_INNER, 2, 48)]
)
def test_every_phase_is_computed_and_the_last_sub_batch_is_filled(grid: PhaseGrid, sub_batch: int, trips: int) -> None:
    walk = Walk(grid, sub_batch)
    assert walk.trips == len(walk.sub_batches) == trips
    assert {phase for phases in walk.sub_batches for phase in phases} == set(grid.phases)
    assert {len(phases) for phases in walk.sub_batches} == {sub_batch}
    assert walk.origins().shape == (trips, sub_batch, 2)


def test_no_more_than_sixteen_copies_of_the_trunk() -> None:
    walk = Walk(TWO_INNER, 2)
    with pytest.raises(
        InputError, match=r'^loop="unrolled" repeats the trunk .* at most 16 times, .* has 48 of them: '
    ):
        packed_model(
            prepare_of(TWO_INNER),
            trunk_of(TWO_INNER),
            walk,
            loop=LoopForm.UNROLLED,
            takes=InputForm(),
            gives=OutputForm(),
            classes=3,
        )


def test_names_are_unique_and_the_loop_is_as_tensorrt_takes_it() -> None:
    model = onnx.load_from_string(packed(ONE_INNER, 4, LoopForm.LOOP, OutputForm()))
    (loop,) = (node for node in model.graph.node if node.op_type == "Loop")
    (body,) = (attribute.g for attribute in loop.attribute)
    nodes = [node.name for node in (*model.graph.node, *body.node)]
    values = [name for graph in (model.graph, body) for node in graph.node for name in node.output]
    values += [held.name for graph in (model.graph, body) for held in (*graph.initializer, *graph.input)]
    assert len(set(nodes)) == len(nodes)
    assert len(set(values)) == len(values)
    # A trip count and no condition, which the body gives itself.
    assert [bool(name) for name in loop.input] == [True, False]
    assert "Constant" in [node.op_type for node in body.node if node.output[0] == body.output[0].name]
    assert body.output[1].type.tensor_type.elem_type == onnx.TensorProto.INT32
    captured = {name for node in model.graph.node for name in node.output}
    readers = [node.op_type for node in body.node if captured & set(node.input)]
    assert readers == ["Gather"] * 4, "each window is cut from the planes by its rows first"


def test_graphs_that_are_none_of_ours_are_refused() -> None:
    def made(prepare: ir.Model, trunk: ir.Model, grid: PhaseGrid = ONE_INNER) -> ir.Model:
        walk, gives = Walk(grid, 1), OutputForm()
        return packed_model(prepare, trunk, walk, loop=LoopForm.LOOP, takes=InputForm(), gives=gives, classes=3)

    with pytest.raises(BundleError, match=r"^prepare.onnx does Constant, .*, and not Cast, Transpose, Mul, Add, Pad; "):
        made(trunk_of(ONE_INNER), trunk_of(ONE_INNER))
    with pytest.raises(BundleError, match="does not end in a cast of its labels to uint8"):
        made(prepare_of(ONE_INNER), trunk_of(ONE_INNER, OutputKind.LOGITS))
    with pytest.raises(BundleError, match=r"^the trunk takes windows, offsets, which its levels do not give"):
        made(prepare_of(WITHOUT_INNER), trunk_of(ONE_INNER), WITHOUT_INNER)
    branching = ir.from_onnx_text("""
        <ir_version: 10, opset_import: ["" : 18]>
        trunk (float[n,3,4,4] windows) => (float[n,3,4,4] result)
        {
            yes = Constant <value = bool {1}> ()
            result = If (yes) <then_branch = one () => (float[n,3,4,4] a) { a = Identity (windows) },
                               else_branch = two () => (float[n,3,4,4] b) { b = Neg (windows) }>
        }""")
    grid = PhaseGrid((4, 4), (4, 4), (1, 1), (0, 0, 0, 0))
    with pytest.raises(BundleError, match="of the bundle holds a graph of its own; such a node cannot be packed"):
        packed_model(
            prepare_of(grid),
            branching,
            Walk(grid, 1),
            loop=LoopForm.LOOP,
            takes=InputForm(),
            gives=OutputForm(OutputKind.LOGITS, "chw"),
            classes=3,
        )
