"""Records: what is written is what is read, and nothing else is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engines import Precision, Schedule
from engines.bundle.records import (
    BuildRecord,
    Check,
    Figure,
    LayerFigures,
    Proven,
    Tactic,
    builtins_from_record,
    json_from_record,
    record_from_json,
)
from engines.errors import BundleError
from engines.parity.checks import Question
from engines.schedules.schedule import Lowering
from tests.records import build_record

QUESTION = Question.of_hop("PyTorch", "trunk.onnx", "a frame", 1e-5, graph="trunk.onnx")


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1.5"])
def test_what_json_lacks_is_text(text: str) -> None:
    largest = {Precision.FP16: Figure(text)}
    layer = LayerFigures(name="conv1", magnitude=Figure(0), largest=largest, error={})
    document = json_from_record(layer)
    assert json.loads(document)["largest"] == {"fp16": 1.5 if text == "1.5" else text}
    assert json.loads(document) == builtins_from_record(layer)
    read = record_from_json(document, LayerFigures, "x.json")
    np.testing.assert_equal(float(read.largest[Precision.FP16]), float(text))


@pytest.mark.parametrize("value", ["1.0", "Infinity", True, [1], {}])
def test_a_figure_is_a_number_or_one_of_three_texts(value: object) -> None:
    wrong = {**builtins_from_record(QUESTION.measured(1.0)), "value": value}
    with pytest.raises(BundleError, match=r"x\.json is no record of its kind: expected a number.*\$\.value"):
        record_from_json(json.dumps(wrong).encode(), Check, "x.json")


def test_a_build_record_comes_back_as_it_was() -> None:
    for effective in ("not read: there is no GPU", {"HALF": 21}):
        record = build_record(effective_precision=effective)
        assert record_from_json(json_from_record(record), BuildRecord, "x.json") == record


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights_sha256": "0" * 63}, r"\$\.weights_sha256"),
        ({"precision": "fp8"}, r"\$\.precision"),
        ({"more": 1}, "unknown field `more`"),
        ({"device": None}, r"\$\.device"),
    ],
)
def test_a_damaged_build_record_is_one_message(changes: dict[str, object], said: str) -> None:
    document = json.dumps({**builtins_from_record(build_record()), **changes}).encode()
    with pytest.raises(BundleError, match=f"x.json is no record of its kind: .*{said}"):
        record_from_json(document, BuildRecord, "x.json")


@pytest.mark.parametrize("document", [b"", b"{", b'{"flags": ' + b'{"a":' * 10_000])
def test_what_is_no_json_cannot_be_read(document: bytes) -> None:
    with pytest.raises(BundleError, match=r"x\.json cannot be read"):
        record_from_json(document, BuildRecord, "x.json")


def test_a_key_that_stands_twice_has_no_meaning() -> None:
    """Of two verdicts one reader takes the first, another the last."""
    document = json_from_record(build_record()).replace(b'"backend":', b'"backend": "tensorrt", "backend":', 1)
    with pytest.raises(BundleError, match=r"x\.json cannot be read: the key 'backend' stands twice"):
        record_from_json(document, BuildRecord, "x.json")


@pytest.mark.parametrize(("field", "value"), [("key", "0x1\n"), ("tactic", "0x0123456789abcdef\n")])
def test_a_line_break_is_no_end(field: str, value: str) -> None:
    good = {"key": "0x1", "tactic": "0x0123456789abcdef"}
    assert record_from_json(json.dumps([*good.values(), 1.0]).encode(), Tactic, "x.json").key == "0x1"
    with pytest.raises(BundleError, match=r"x\.json is no record of its kind"):
        record_from_json(json.dumps([*{**good, field: value}.values(), 1.0]).encode(), Tactic, "x.json")


@pytest.mark.parametrize(
    ("proven", "file"),
    [
        (Proven("onnxruntime", Precision.FP32, Schedule(2)), "validation-onnxruntime-fp32-l2-b1-reshape.json"),
        (
            Proven("tensorrt-rtx", Precision.TF32, Schedule(0, 16, Lowering.DILATED)),
            "validation-tensorrt-rtx-tf32-l0-b16-dilated.json",
        ),
        (Proven("tensorrt", Precision.FP16, None), "validation-tensorrt-fp16.json"),
    ],
)
def test_the_record_of_a_proof_is_named_by_what_it_is_of(proven: Proven, file: str) -> None:
    assert proven.file == file
    assert Proven.of_file(file) == proven


@pytest.mark.parametrize(
    "name",
    ["validation.json", "validation-onnxruntime.json", "validation-a-fp8.json", "validation-a-fp32-l2-b0-reshape.json"],
)
def test_names_of_other_records(name: str) -> None:
    assert Proven.of_file(name) is None
