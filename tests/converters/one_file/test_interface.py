"""What a packed file takes and gives, against conversions written here in plain numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from converters.one_file.forms import InputForm, InputKind, YuvMatrix, YuvRange
from converters.one_file.hosts import nv12_from_rgb, rgb_from_nv12
from converters.one_file.nodes import Names, Nodes, typed
from converters.one_file.nv12 import pixels_from_nv12
from converters.one_file.packing import pack
from engines import Bundle, Session
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
NV12_FORMS = [(matrix, range_) for matrix in YuvMatrix for range_ in YuvRange]


def run(path: Path, **feed: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [end.name for end in session.get_inputs()] == list(feed)
    (result,) = session.run(None, feed)
    return result


@pytest.fixture(scope="module")
def expected(exported: Bundle) -> np.ndarray:
    with Session.open(exported) as session:
        return session.predict(a_frame())


def a_frame() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (64, 96, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("options", "feed"),
    [
        ({"input_layout": "nhwc"}, lambda frame: frame[None]),
        ({"input_layout": "chw"}, lambda frame: frame.transpose(2, 0, 1)),
        ({"input_layout": "nchw", "input_color": "bgr"}, lambda frame: frame[:, :, ::-1].transpose(2, 0, 1)[None]),
        ({"input_color": "bgr"}, lambda frame: frame[:, :, ::-1]),
        ({"input": "scaled"}, lambda frame: frame.transpose(2, 0, 1)[None].astype(np.float32)),
        (
            {"input": "scaled", "input_layout": "hwc", "input_color": "bgr"},
            lambda frame: frame[:, :, ::-1].astype(np.float32),
        ),
    ],
    ids=["nhwc", "chw", "nchw bgr", "bgr", "scaled", "scaled hwc bgr"],
)
def test_the_same_pixels_in_every_form(
    exported: Bundle, expected: np.ndarray, tmp_path: Path, options: dict[str, Any], feed: Any
) -> None:
    packed = pack(exported, tmp_path / "net.onnx", sub_batch=16, **options)
    np.testing.assert_array_equal(run(packed.path, frame=np.ascontiguousarray(feed(a_frame()))), expected)


def test_values_that_a_host_scaled_or_normalised(exported: Bundle, expected: np.ndarray, tmp_path: Path) -> None:
    frame = a_frame().astype(np.float64)
    # One scale and a mean of each channel, in the order B, G, R: what nvinfer computes.
    mean = np.array([103.5, 116.25, 123.75])
    scaled = pack(
        exported,
        tmp_path / "scaled.onnx",
        sub_batch=16,
        input="scaled",
        input_color="bgr",
        input_scale=0.0175,
        input_mean=mean,
    )
    given = (0.0175 * (frame[:, :, ::-1] - mean)).transpose(2, 0, 1)[None].astype(np.float32)
    # Rounded once more than pixels are, so a tie may be broken otherwise.
    assert (run(scaled.path, frame=given) != expected).sum() <= 1
    assert scaled.document.proof.detail.startswith("all 6144 labels equal the session's")
    normalized = pack(exported, tmp_path / "normalized.onnx", sub_batch=16, input="normalized")
    given = ((frame / 255 - MEAN) / STD).transpose(2, 0, 1)[None].astype(np.float32)
    assert (run(normalized.path, frame=given) != expected).sum() <= 1


@pytest.mark.parametrize("layout", ["hw", "nhw", "chw", "hwc", "nchw", "nhwc"])
def test_labels_in_every_layout(exported: Bundle, expected: np.ndarray, tmp_path: Path, layout: str) -> None:
    dtype = {"hw": "int64", "nhw": "uint8", "nhwc": "int32"}.get(layout, "uint8")
    packed = pack(exported, tmp_path / "net.onnx", sub_batch=16, output_layout=layout, label_type=dtype)
    labels = run(packed.path, frame=a_frame())
    assert labels.dtype == dtype
    assert (
        labels.shape
        == {
            "hw": (64, 96),
            "nhw": (1, 64, 96),
            "chw": (1, 64, 96),
            "hwc": (64, 96, 1),
            "nchw": (1, 1, 64, 96),
            "nhwc": (1, 64, 96, 1),
        }[layout]
    )
    np.testing.assert_array_equal(labels.reshape(64, 96), expected)


@pytest.mark.parametrize("layout", ["chw", "hwc", "nchw", "nhwc"])
def test_logits_of_a_padded_frame_in_every_layout(of_logits: Bundle, tmp_path: Path, layout: str) -> None:
    packed = pack(of_logits, tmp_path / "net.onnx", levels=2, sub_batch=4, output_layout=layout)
    assert packed.document.proof.detail.startswith("logits within ")
    frame = np.random.default_rng(6).integers(0, 256, (37, 70, 3), dtype=np.uint8)
    with Session.open(of_logits, schedule=packed.document.schedule) as session:
        expected = session.predict(frame)
    result = run(packed.path, frame=frame)
    assert expected.shape == (5, 37, 70)
    found = result[0] if "n" in layout else result
    found = found if layout.endswith("chw") else found.transpose(2, 0, 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def reference_rgb(matrix: YuvMatrix, range_: YuvRange, luma: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """From the definitions of BT.601 and BT.709, pixel by pixel in double precision, not yet rounded."""
    red, blue = {YuvMatrix.BT601: (0.299, 0.114), YuvMatrix.BT709: (0.2126, 0.0722)}[matrix]
    green = 1 - red - blue
    limited = range_ is YuvRange.LIMITED
    out = np.zeros((*luma.shape, 3))
    for y in range(luma.shape[0]):
        for x in range(luma.shape[1]):
            u, v = (float(part) - 128 for part in chroma[y // 2, x // 2])
            bright, cb, cr = (
                ((float(luma[y, x]) - 16) / 219, u / 224, v / 224)
                if limited
                else (float(luma[y, x]) / 255, u / 255, v / 255)
            )
            r, b = bright + 2 * (1 - red) * cr, bright + 2 * (1 - blue) * cb
            out[y, x] = r, (bright - red * r - blue * b) / green, b
    return 255 * out


@pytest.mark.parametrize(("matrix", "range_"), NV12_FORMS)
def test_nv12_is_within_one_of_the_definition(matrix: YuvMatrix, range_: YuvRange) -> None:
    form, size = InputForm(kind=InputKind.NV12, matrix=matrix, range=range_), (32, 48)
    draw = np.random.default_rng(7)
    luma = draw.integers(0, 256, size, dtype=np.uint8)
    chroma = draw.integers(0, 256, (16, 24, 2), dtype=np.uint8)
    nodes = Nodes(Names())
    planes = [typed(ir.val(name), ir.DataType.UINT8, shape) for name, shape in form.shapes(size).items()]
    pixels = typed(pixels_from_nv12(nodes, form, planes[0], planes[1], size), ir.DataType.FLOAT, (3, *size))
    graph = nodes.graph("nv12", planes, [pixels])
    graph.opset_imports[""] = 18
    content = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
    with OnnxRuntimeRunner(content) as runner:
        (result,) = runner.infer({"luma": luma, "chroma": chroma}).values()
    found = result.transpose(1, 2, 0)  # type: ignore[union-attr]
    exact = np.clip(reference_rgb(matrix, range_, luma, chroma), 0, 255)
    # Rounded to the nearest, so by half a step, and no more than float32 is off besides.
    assert np.abs(found - exact).max() <= 0.5001
    np.testing.assert_array_equal(found, np.round(found))
    np.testing.assert_array_equal(found, rgb_from_nv12(form, luma, chroma))
    # Each corner of the cube is reached, and clipped.
    assert (found.min(), found.max()) == (0, 255)


@pytest.mark.parametrize(("matrix", "range_"), NV12_FORMS)
def test_grey_and_primary_colours_survive_nv12(matrix: YuvMatrix, range_: YuvRange) -> None:
    form = InputForm(kind=InputKind.NV12, matrix=matrix, range=range_)
    for color in ((0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 255, 0), (0, 0, 255)):
        frame = np.full((2, 2, 3), color, np.uint8)
        luma, chroma = nv12_from_rgb(form, frame)
        if len(set(color)) == 1:
            assert chroma.tolist() == [[[128, 128]]]
        if range_ is YuvRange.LIMITED:
            assert 16 <= luma.min() <= luma.max() <= 235
        # Luma and chroma are rounded, by half of a step, and chroma counts up to 2.1 times.
        assert np.abs(rgb_from_nv12(form, luma, chroma).astype(int) - frame).max() <= 2


def test_nv12_is_equal_to_converting_first(exported: Bundle, tmp_path: Path) -> None:
    packed = pack(exported, tmp_path / "net.onnx", sub_batch=16, input="nv12", yuv_matrix="bt709", yuv_range="full")
    assert packed.document.proof.detail.startswith("all 6144 labels equal the session's")
    assert [(held.name, held.shape) for held in packed.document.input.tensors] == [
        ("luma", [64, 96]),
        ("chroma", [32, 48, 2]),
    ]
    draw = np.random.default_rng(8)
    luma = draw.integers(60, 200, (64, 96), dtype=np.uint8)
    chroma = draw.integers(100, 156, (32, 48, 2), dtype=np.uint8)
    converted = reference_rgb(YuvMatrix.BT709, YuvRange.FULL, luma, chroma)
    # No value lies where single and double precision could round differently.
    assert np.abs(np.abs(converted - np.round(converted)) - 0.5).min() > 1e-4
    with Session.open(exported) as session:
        expected = session.predict(np.clip(np.round(converted), 0, 255).astype(np.uint8))
    np.testing.assert_array_equal(run(packed.path, luma=luma, chroma=chroma), expected)
