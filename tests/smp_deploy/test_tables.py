"""CSV that a spreadsheet does not compute."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smp_deploy.tables import csv_of
from smp_deploy.training import Measurement
from smp_deploy.training.metrics import write_csv


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-road", "'-road"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", r"'\t=1"),
        ("\r=1", r"'\r=1"),
        ("\uff1d1", "'\uff1d1"),
        ("road = 1", "road = 1"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\udc80", r"\udc80"),
        (-1, "-1"),
        (-0.25, "-0.25"),
        (None, ""),
        (True, "True"),
    ],
)
def test_text_is_no_formula_and_numbers_stay_numbers(cell: object, written: str) -> None:
    assert csv_of([["name", cell]]).decode() == f"name,{written}\n"


@given(st.lists(st.lists(st.text(st.characters()), min_size=1), min_size=1))
def test_no_cell_begins_a_formula(rows: list[list[str]]) -> None:
    read = list(csv.reader(io.StringIO(csv_of(rows).decode(), newline="")))
    assert len(read) == len(rows)
    assert not [cell for row in read for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_learning_curves_are_numbers(tmp_path: Path) -> None:
    measurement = Measurement(1, 0.5, 1e-5, -2.0, float("nan"), 0.25)
    write_csv(tmp_path / "metrics.csv", [measurement])
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,epoch,learning_rate,loss,mean_iou,thin_iou\n1,0.5,1e-05,-2.0,,0.25\n"
    )
