"""The results for people: one table for each kind of row."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engines import Lowering
from gpu.copies import COPIES
from gpu.pytorch import PYTORCH, TRAINING
from gpu.rates import FRAMES, MATRIX
from gpu.results import Row
from gpu.sessions import BUDGET, CONTEXT, PARITY

Figures = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One figure of a row, as it is shown; empty where the row has none."""

    title: str
    figure: str
    shown: Callable[[Any], str]

    def cell(self, figures: Figures) -> str:
        """Of the figures of a row."""
        return self.shown(figures[self.figure]) if figures.get(self.figure) is not None else ""


def _mib(size: float) -> str:
    return f"{size / 2**20:.0f}"


def _tera(rate: float) -> str:
    return f"{rate / 1e12:.3g}"


def _stages(stages: dict[str, float]) -> str:
    return ", ".join(f"{name} {ms:.2f}" for name, ms in stages.items())


def _ms(ms: float) -> str:
    return f"{ms:.2f}"


_AGREEMENT = Column("agreement", "agreement", lambda share: f"{share:.4%}")
_ERROR = Column("error", "error", lambda error: f"{error:.2g}")
_LATENCY = Column("latency, ms", "latency_ms", _ms)
_FRAME_TO_FRAME = Column("frame to frame, ms", "frame_to_frame_ms", _ms)
_STAGES = Column("stages of a sub-batch, ms", "stages_ms", _stages)
_PREDICTED = Column("predicted, MiB", "predicted_bytes", _mib)
_TAKEN = Column("taken, MiB", "taken_bytes", _mib)
_RATE = Column("TFLOP/s", "operations_per_s", _tera)
_CHOSEN = Column("chosen", "schedule", str)
_ALLOCATED = Column("allocated, MiB", "allocated_bytes", _mib)
_RESERVED = Column("reserved, MiB", "reserved_bytes", _mib)
_SHARE = Column("of the matrix rate", "share_of_matrix_rate", lambda share: f"{share:.0%}")


@dataclass(frozen=True)
class Table:
    """How the rows of a kind are shown."""

    title: str
    columns: tuple[Column, ...]
    note: str = ""


TABLES = {
    CONTEXT: Table(
        "Context and kernels",
        (Column("taken for good, MiB", "context_and_kernels_bytes", _mib),),
        "What the process holds after its first session was closed: the context, and the kernels that were loaded.",
    ),
    MATRIX: Table("Matrix products", (Column("size", "size", str), _RATE)),
    PARITY: Table(
        "Schedules",
        (_AGREEMENT, _ERROR, _LATENCY, _FRAME_TO_FRAME, _RATE, _SHARE, _PREDICTED, _TAKEN, _STAGES),
        "Agreement is the lowest of all checks, of labels with PyTorch's and between schedules; error is the largest "
        "relative one of logits. Taken is what the device's memory grew by at the peak, beyond the context and the "
        "kernels that stay.",
    ),
    BUDGET: Table(
        "Budgets",
        (_CHOSEN, _LATENCY, _PREDICTED, _TAKEN, _AGREEMENT),
        "Taken must be at most the budget. A refusal must name a size that would suffice.",
    ),
    FRAMES: Table(
        "Frames against the trunk alone",
        (
            _CHOSEN,
            Column("frames", "frames", str),
            Column("frame, ms", "frame_ms", _ms),
            Column("trunk alone, ms", "trunk_ms", _ms),
            Column("ratio", "ratio", lambda ratio: f"{ratio:.3f}"),
        ),
        "From frame to frame, against what the trunk alone takes of the device for all sub-batches of a frame.",
    ),
    PYTORCH: Table(
        "PyTorch",
        (_LATENCY, _RATE, _SHARE, _ALLOCATED, _RESERVED),
        "From a frame in host memory to labels in host memory. Memory is the most that PyTorch's allocator gave out, "
        "and the most that it held.",
    ),
    TRAINING: Table("A step of training", (_LATENCY, _ALLOCATED, _RESERVED)),
    COPIES: Table("Copies in the graphs", (Column("nodes", "nodes", str), Column("copies", "copies", str))),
}
"""By kind, in their order on the page."""


def page(document: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"# {document['gpu']}", "", "Made by `python benchmarks/gpu_check.py`.", ""]
    if not document["complete"]:
        lines += ["**The run was cut before its end**: what follows is what it had by then.", ""]
    lines += [f"- {name}: {fact}" for name, fact in document["machine"].items()]
    rows = document["rows"]
    for kind, table in TABLES.items():
        shown = [row for row in rows if row["kind"] == kind and row["status"] != "not run"]
        if shown:
            lines += ["", f"## {table.title}", "", *_table(shown, table.columns)]
            lines += ["", table.note] if table.note else []
    for status in ("failed", "refused", "not run"):
        lines += _reasons(status, [row for row in rows if row["status"] == status])
    if document["rearrangement"]:
        lines += ["", "## Rearrangement", "", "By comparison of the lowerings:", ""]
        named = ("bundle", "backend", "precision", "schedule")
        lines += [
            f"- {_title(*(share[name] for name in named))}: {share['share']:.1%}" for share in document["rearrangement"]
        ]
    return "\n".join(lines) + "\n"


def _table(rows: list[Figures], columns: tuple[Column, ...]) -> list[str]:
    named = ("bundle", "what", "precision", "schedule")
    subjects = [name for name in named if any(row[name] for row in rows)]
    filled = [column for column in columns if any(column.cell(row["figures"]) for row in rows)]
    lines = [_line([*subjects, "status", *(column.title for column in filled)])]
    lines.append(_line(["---"] * (len(subjects) + 1 + len(filled))))
    for row in rows:
        cells = [row[name] for name in subjects] + [row["status"]]
        lines.append(_line(cells + [column.cell(row["figures"]) for column in filled]))
    return lines


def _title(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _reasons(status: str, rows: list[Figures]) -> list[str]:
    """What was not measured, those of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        title = _title(row["bundle"], row["what"], row["precision"], row["schedule"])
        by_reason.setdefault(f"{row['kind']}: {row['reason']}", []).append(title)
    if not rows:
        return []
    listed = [f"- {reason}: {'; '.join(titles)}" for reason, titles in by_reason.items()]
    return ["", f"{status.capitalize()}:", "", *listed]


def rearrangement(rows: list[Row]) -> list[dict[str, Any]]:
    """What the reshape lowering takes longer than the best one, as a share of its own time: the rearrangement."""
    shares = []
    timed = [row for row in rows if row.kind == PARITY and "latency_ms" in row.figures]
    for row in timed:
        others = [
            other.figures["latency_ms"]
            for other in timed
            if (other.what, other.bundle, other.precision) == (row.what, row.bundle, row.precision)
            and other.schedule.rpartition(", ")[0] == row.schedule.rpartition(", ")[0]
        ]
        if row.schedule.endswith(Lowering.RESHAPE.value) and len(others) == len(Lowering):
            share = {"share": 1 - min(others) / row.figures["latency_ms"], "backend": row.what, "bundle": row.bundle}
            shares.append({**share, "precision": row.precision, "schedule": row.schedule})
    return shares
