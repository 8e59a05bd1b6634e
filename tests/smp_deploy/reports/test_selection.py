"""Pages and texts select by the fields of a record: other words leave the same structure."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from engines import Bundle, Precision
from engines.bundle.records import Check, Figure, Kind, LayerFigures, Quantity, Validation
from engines.parity.checks import Question
from engines.parity.validation import ValidationFigures, validation_from_checks
from smp_deploy.reports.pages import text_of, worst_hops
from smp_deploy.reports.verdicts import judged
from tests.records import page


def hop(source: str, target: str, graph: str, value: float, where: str = "frame 0") -> Check:
    return Question.of_hop(source, target, where, 1e-5, graph=graph).measured(value)


def other(kind: Kind, quantity: Quantity, value: float, tolerance: float) -> Check:
    question = Question(
        kind=kind,
        name=f"trunk-like model.onnx {kind.value}",
        subject="relative error",
        quantity=quantity,
        tolerance=tolerance,
        graph="trunk.onnx",
    )
    return question.measured(value, "relative error of logits")


CHECKS = [
    other(Kind.LAYOUT, Quantity.LOGIT_ERROR, 0, 1e-6),
    hop("PyTorch", "trunk.onnx", "trunk.onnx", 1e-6),
    hop("PyTorch", "trunk.onnx", "trunk.onnx", 4e-6, "frame 1"),
    hop("PyTorch", "trunk.onnx", "trunk.onnx", 2e-6, "frame 2"),
    hop("trunk.onnx", "trunk.fp16.onnx", "trunk.fp16.onnx", float("inf")).located("trunk.fp16.onnx: conv1"),
    hop("model.onnx", "merged phases of trunk.onnx", "model.onnx", 3e-6),
    hop("PyTorch", "trunk-l3-reshape.onnx", "trunk-l3-reshape.onnx", 5e-6),
    other(Kind.HOP, Quantity.LABEL_AGREEMENT, 1, 0.99),
    other(Kind.MAGNITUDE, Quantity.LARGEST_MAGNITUDE, 12, 65504),
    Question.of_hop("PyTorch", "engine", "engines", 1e-5, graph=None).not_run("there is no NVIDIA GPU"),
]


@pytest.fixture
def record(bundle: Path) -> Validation:
    layer = LayerFigures(
        name="conv1",
        magnitude=Figure(12),
        largest={Precision.FP16: Figure("nan")},
        error={Precision.FP16: Figure("inf")},
    )
    return validation_from_checks(
        Bundle.open(bundle),
        CHECKS,
        seconds=1,
        overrides={},
        frames=["frame 0", "frame 1", "frame 2"],
        commands=["smp-deploy validate bundle"],
        tools={},
        figures=ValidationFigures(layers=[layer]),
    )


def reworded(record: Validation) -> Validation:
    """With no word of its checks as it was."""
    checks = [
        msgspec.structs.replace(
            check,
            name=f"Pruefung {place}",
            subject="Bild",
            detail="Worte" if check.detail else "",
            location="Ort" if check.location else "",
        )
        for place, check in enumerate(record.checks)
    ]
    return msgspec.structs.replace(record, checks=checks, not_proven=["Worte"])


def structure(page: str) -> list[str]:
    """Tags, headings of groups, names of pictures, all figures: everything but the words of cells."""
    without_cells = re.sub(r"(<t[dh][^>]*>)[^<]*", r"\1", page)
    return re.findall(r"<summary>[^<]*|aria-label=\"[^\"]*\"|<svg.*?</svg>|</?[a-z0-9]+", without_cells, re.DOTALL)


def figures(page: str) -> list[str]:
    return re.findall(r'<td class="number">([^<]*)', page)


def test_every_message_may_be_reworded(bundle: Path, record: Validation) -> None:
    opened, other_words = Bundle.open(bundle), reworded(record)
    pages = page(opened, record), page(opened, other_words)
    assert structure(pages[0]) == structure(pages[1])
    assert figures(pages[0]) == figures(pages[1])
    assert len(figures(pages[0])) > 2 * len(CHECKS)
    lines = [
        [line for line in text_of(held, judged(opened, held, {})).splitlines() if " of " in line]
        for held in (record, other_words)
    ]
    assert lines[0][:5] == lines[1][:5]


def test_hops_are_those_that_measure_logits_each_at_its_worst(record: Validation) -> None:
    chain, others = worst_hops(reworded(record))
    assert [(check.hop, check.value) for check in chain] == [
        (("model.onnx", "merged phases of trunk.onnx"), 3e-6),
        (("PyTorch", "trunk.onnx"), 4e-6),
        (("trunk.onnx", "trunk.fp16.onnx"), float("inf")),
    ]
    assert [check.hop for check in others] == [("PyTorch", "trunk-l3-reshape.onnx")]
