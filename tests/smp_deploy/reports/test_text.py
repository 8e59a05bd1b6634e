"""What a record says is shown on the page and in its figures; one that no page can be made of is refused."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from engines import Bundle, Precision
from engines.bundle.records import (
    ClassChange,
    ClassFigures,
    Figure,
    LabelFigures,
    LayerFigures,
    Validation,
    builtins_from_record,
    json_from_record,
    record_from_json,
)
from engines.errors import BundleError
from engines.parity.checks import Question
from engines.parity.validation import ValidationFigures, validation_from_checks
from smp_deploy.reports.pages import text_of
from smp_deploy.reports.verdicts import judged
from smp_deploy.training import Measurement
from smp_deploy.training.metrics import write_curves
from tests.conftest import Cli
from tests.records import page

EVIL = "$x^{$<b>\x1b[31m\x9b\u202e\udc80\nz"
WRITTEN = r"$x^{$<b>\x1b[31m\x9b\u202e\udc80"


def validation(bundle: Bundle, name: str = EVIL) -> Validation:
    """A record with figures of every kind, whose names are of others."""
    rows, columns = 4, 4
    share, error = [[0.25] * columns] * rows, [[Figure(1e-4)] * columns] * rows
    figures = LabelFigures(
        pixels=100,
        differing=4,
        ties=3,
        near=10,
        near_differing=2,
        by_phase=share,
        error_by_phase=error,
        classes=[ClassFigures(name=name, pixels=100, agreeing=96)],
        changes=[ClassChange(before=name, to=name, pixels=4)],
    )
    layer = LayerFigures(
        name=name,
        magnitude=Figure(2.0),
        largest={Precision.FP16: Figure(2.0)},
        error={Precision.FP16: Figure(1e-4)},
    )
    checks = [
        Question.of_hop(name, "model.onnx", name, 1e-5, graph="model.onnx").measured(1e-7),
        Question.of_hop("PyTorch", name, name, 1e-5, graph="another.onnx").measured(1.0),
    ]
    found = ValidationFigures(window=(rows, columns), layers=[layer], agreements={Precision.FP16: figures})
    return validation_from_checks(
        bundle, checks, seconds=1, overrides={}, frames=[name], commands=[name], tools={name: name}, figures=found
    )


class Texts(HTMLParser):
    """The texts of a page and of its attributes, and its policy."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.tags, self.policy = "", set[str](), ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        values = dict(attrs)
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_shows_names_of_others(exported: Bundle) -> None:
    html = page(exported, validation(exported))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\udc80]", html)
    texts = Texts(html)
    assert "b" not in texts.tags
    # In the chain, another schedule's hop, the layers, by class twice, tools twice, frames and commands.
    assert texts.text.count(WRITTEN) >= 8
    svg = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert svg.count(r"$x^{$&lt;b&gt;\x1b[31m\x9b\u202e\udc80\nz") == 3
    html.encode()


def test_a_page_fetches_and_runs_nothing(exported: Bundle) -> None:
    html = page(exported, validation(exported))
    texts = Texts(html)
    assert texts.policy == (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert not {"script", "link", "form", "iframe", "object", "embed", "base"} & texts.tags
    assert not re.search(r"<[^>]* on\w+=", html)


def test_text_of_a_record_is_a_line_for_each_fact(exported: Bundle) -> None:
    lines = text_of(validation(exported), judged(exported, validation(exported), {})).split("\n")
    assert len([line for line in lines if WRITTEN + r"\nz" in line]) == 3
    assert not [line for line in lines if line.startswith("z")]


def test_a_title_of_learning_curves_is_no_mathematics(tmp_path: Path) -> None:
    assert write_curves(tmp_path / "curves.png", [Measurement(1, 1.0, 1e-5, 2.0, 0.5, 0.25)], EVIL)


def changed(record: Any, place: str, value: Any) -> bytes:
    """The record with another value at a place, ``agreements.fp16.pixels``."""
    document: Any = builtins_from_record(record)
    held = document
    *path, last = (int(part) if part.isdigit() else part for part in place.split("."))
    for part in path:
        held = held[part]
    held[last] = value
    return json.dumps(document).encode()


DIGITS = int("9" * 400)


@pytest.mark.parametrize(
    ("place", "value", "part"),
    [
        ("agreements.fp16.by_phase", [[0.5], [0.5, 0.5]], "the figures by phase are not those of the 4x4 phases"),
        ("agreements.fp16.by_phase", [], "the figures by phase are not those of the 4x4 phases"),
        ("agreements.fp16.by_phase", None, "the figures by phase are not those of the 4x4 phases"),
        ("agreements.fp16.error_by_phase", None, "the figures by phase are not those of the 4x4 phases"),
        ("agreements.fp16.by_phase", [[1e308] * 4] * 4, "Expected `float` <= 1.0"),
        ("agreements.fp16.pixels", DIGITS, "Expected `int` <= 9007199254740992"),
        ("agreements.fp16.differing", -1, "Expected `int` >= 0"),
        ("layers.0.magnitude", DIGITS, "out of range"),
        ("seconds", DIGITS, "Number out of range"),
        ("frame.0", DIGITS, "Expected `int` <= 9007199254740992"),
        ("tolerances", {}, "Expected `object` of length >= 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_figures_that_no_page_can_be_made_of(exported: Bundle, place: str, value: Any, part: str) -> None:
    document = changed(validation(exported, "plain"), place, value)
    with pytest.raises(BundleError, match=r"^validation\.json is no record of its kind: ") as caught:
        record_from_json(document, Validation, "validation.json")
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"record_version": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"record_version": ' + b"9" * 5000 + b"}",
        b'{"record_version": 2, "seconds": ' + b"9" * 400 + b"}",
        b'{"record_version": 2, "bundle": "\\udc80"}',
    ],
    ids=["lists", "nested", "digits", "figure", "surrogate"],
)
def test_records_that_cannot_be_parsed_are_one_message(cli: Cli, bundle: Path, content: bytes) -> None:
    (bundle / "reports").mkdir()
    (bundle / "reports" / "validation.json").write_bytes(content)
    done = cli("report", bundle)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert f"{bundle / 'reports' / 'validation.json'} " in done.stderr


@pytest.mark.parametrize("place", ["network.parameters", "input.size", "trunks.0.operations"])
def test_a_manifest_with_numbers_of_hundreds_of_digits(cli: Cli, bundle: Path, place: str) -> None:
    path = bundle / "manifest.json"
    document = held = json.loads(path.read_text())
    *parts, last = (int(part) if part.isdigit() else part for part in place.split("."))
    for part in parts:
        held = held[part]
    held[last] = [DIGITS, DIGITS] if last == "size" else DIGITS
    path.write_text(json.dumps(document))
    done = cli("inspect", bundle)
    assert done.returncode == 2
    assert "manifest.json is not a valid manifest: Expected `int` <= 9007199254740992" in done.stderr


def test_records_hold_names_that_are_no_utf_8(exported: Bundle) -> None:
    record = validation(exported, "a\udc80\u202e")
    content = json_from_record(record)
    assert json.loads(content) == builtins_from_record(record)
    read = record_from_json(content, Validation, "validation.json")
    assert read.frames == ["a\\udc80\u202e"]
