"""What an evaluation writes: JSON for machines, CSV for spreadsheets, a table for people."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec

from engines.bundle.gate import write_file
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


def write_reports(evaluation: Evaluation, directory: Path) -> None:
    """``evaluation.json``, ``classes.csv`` and ``confusion.csv`` (rows: truth, columns: prediction).

    Each is whole or absent. Raises :class:`OutputError` when one cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    document = document_from_evaluation(evaluation)
    write_file(directory / "evaluation.json", (json.dumps(document, indent=2) + "\n").encode())
    columns = ["name", "iou", "boundary_iou", "thin", "pixels"]
    rows = [[record[column] for column in columns] for record in document["classes"]]
    write_file(directory / "classes.csv", csv_of([columns, *rows]))
    names = list(evaluation.info.classes)
    matrix = [[name, *counts] for name, counts in zip(names, document["confusion"], strict=True)]
    write_file(directory / "confusion.csv", csv_of([["truth", *names], *matrix]))


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
