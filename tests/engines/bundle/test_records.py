"""Records: what is written is what is read, and nothing else is."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engines import Precision
from engines.bundle.records import (
    BuildRecord,
    Check,
    Figure,
    LayerFigures,
    builtins_from_record,
    json_from_record,
    record_from_json,
)
from engines.errors import BundleError
from engines.parity.checks import Question
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
