"""What an evaluation writes: JSON for machines, CSV for spreadsheets, a table for people."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec

from engines.bundle.gate import write_file
from engines.errors import OutputError
from smp_deploy.evaluation.evaluate import Evaluation, FrameScore
from smp_deploy.tables import csv_of

_PER_CENT_DIGITS = 1


def document_from_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """Every figure of an evaluation; IoUs in [0, 1], null where a class does not occur.

    The schedule is null where no bundle was judged.
    """
    info, confusion, rims = evaluation.info, evaluation.confusion, evaluation.boundary
    return {
        "dataset": info.name,
        "frames": evaluation.frames,
        "schedule": msgspec.to_builtins(evaluation.schedule),
        "mean_iou": _number(confusion.mean_iou),
        "thin_iou": _number(confusion.thin_iou),
        "boundary_iou": _number(rims.mean_iou),
        "pixel_accuracy": _number(confusion.pixel_accuracy),
        "seconds_per_frame": evaluation.seconds / evaluation.frames,
        "classes": [
            {
                "name": name,
                "iou": _number(iou),
                "boundary_iou": _number(rim),
                "thin": number in info.thin,
                "pixels": int(confusion.counts[number].sum()),
            }
            for number, (name, iou, rim) in enumerate(
                zip(info.classes, confusion.class_ious, rims.class_ious, strict=True)
            )
        ],
        "confusion": confusion.counts.tolist(),
        "best": [_scored(score) for score in evaluation.best],
        "worst": [_scored(score) for score in evaluation.worst],
    }


EVALUATION_NAME = "evaluation.json"
_CLASSES_NAME, _CONFUSION_NAME = "classes.csv", "confusion.csv"


def replaces_evaluation(directory: Path) -> bool:
    """Whether a directory holds an evaluation, which the next one replaces.

    Raises :class:`OutputError` where files of the same names lie in it that are of none.
    """
    if (directory / EVALUATION_NAME).exists():
        return True
    for name in (_CLASSES_NAME, _CONFUSION_NAME):
        if (directory / name).exists():
            raise OutputError(
                f"{directory / name} is there without an {EVALUATION_NAME}, so it is of no evaluation and is not "
                "replaced; choose another folder"
            )
    return False


def write_reports(evaluation: Evaluation, directory: Path, *, replace: bool = False) -> None:
    """``evaluation.json``, ``classes.csv`` and ``confusion.csv`` (rows: truth, columns: prediction).

    Each is whole or absent. Raises :class:`OutputError` when one cannot be written, or is there already and
    ``replace`` is false.
    """
    directory.mkdir(parents=True, exist_ok=True)
    document = document_from_evaluation(evaluation)
    write_file(directory / EVALUATION_NAME, (json.dumps(document, indent=2) + "\n").encode(), replace=replace)
    columns = ["name", "iou", "boundary_iou", "thin", "pixels"]
    rows = [[record[column] for column in columns] for record in document["classes"]]
    write_file(directory / _CLASSES_NAME, csv_of([columns, *rows]), replace=replace)
    names = list(evaluation.info.classes)
    matrix = [[name, *counts] for name, counts in zip(names, document["confusion"], strict=True)]
    write_file(directory / _CONFUSION_NAME, csv_of([["truth", *names], *matrix]), replace=replace)


def table_from_evaluation(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Rows ``(class, IoU, boundary IoU)`` in per cent, the means last; thin classes are marked with a star."""
    info, confusion, rims = evaluation.info, evaluation.confusion, evaluation.boundary
    rows = []
    for number, name in enumerate(info.classes):
        mark = " *" if number in info.thin else ""
        rows.append((name + mark, per_cent(confusion.class_ious[number]), per_cent(rims.class_ious[number])))
    rows.append(("mean", per_cent(confusion.mean_iou), per_cent(rims.mean_iou)))
    if info.thin:
        rows.append(("thin objects (*)", per_cent(confusion.thin_iou), ""))
    return rows


def per_cent(value: float) -> str:
    """``0.7246`` -> ``72.5``; a dash for what is undefined."""
    return "-" if math.isnan(value) else f"{100 * value:.{_PER_CENT_DIGITS}f}"


def _scored(score: FrameScore) -> dict[str, Any]:
    return {"name": score.name, "index": score.index, "mean_iou": score.mean_iou}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
