"""Rows, the jobs that make them, the time they may take, and the file they are written to as they come."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

Status: TypeAlias = Literal["passed", "failed", "refused", "not run"]
"""``refused``: a budget was refused with what would suffice, which is what it should be. ``not run``: something that
it needs is absent, or there was no time."""

OUT_OF_TIME = "out of time"


@dataclass(frozen=True)
class Row:
    """One thing measured, or why it was not."""

    kind: str
    """What is measured: the table it belongs to."""
    what: str
    """What runs: a backend, or something beside it."""
    bundle: str = ""
    precision: str = ""
    schedule: str = ""
    status: Status = "not run"
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def ended(self, status: Status, reason: str = "", **figures: Any) -> Row:
        """The row with its outcome; figures it had already stay."""
        return replace(self, status=status, reason=reason, figures={**self.figures, **figures})

    @property
    def title(self) -> str:
        """What it is a row of, in one line."""
        return " ".join(filter(None, (self.bundle, self.what, self.precision, self.schedule)))


@dataclass(frozen=True)
class Job:
    """A row still to be measured."""

    row: Row
    measure: Callable[[Row], Row]
    """Gives the row with its outcome."""
    guess_s: float = 0.0
    """How long it may take, before one of the same kind was measured."""

    @property
    def cost(self) -> tuple[str, str, str, str]:
        """Jobs that share it take about as long."""
        return self.row.kind, self.row.bundle, self.row.what, self.row.precision


class Clock:
    """The time that all jobs together may take."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._longest: dict[tuple[str, ...], float] = {}

    def allows(self, job: Job) -> bool:
        """Whether a job would end in time if it took as long as the longest of its kind so far."""
        return time.monotonic() + self._longest.get(job.cost, job.guess_s) < self._end

    def took(self, job: Job, seconds: float) -> None:
        """Remember how long a job took."""
        self._longest[job.cost] = max(seconds, self._longest.get(job.cost, 0.0))


class Results:
    """The rows so far. With a folder, its two files are whole after every row, and a run that is cut leaves them so.

    Nothing is written before something has run: a machine that lacks everything leaves no results.

    Args:
        head: what the document says beside the rows.
        document: the whole document of head and rows.
        page: the document for people.
        folder: where ``stem.json`` and ``stem.md`` are written; ``None`` for nowhere.
        stem: what they are called.
    """

    def __init__(
        self,
        head: dict[str, Any],
        document: Callable[[list[Row]], dict[str, Any]],
        page: Callable[[dict[str, Any]], str],
        folder: Path | None,
        stem: str,
    ) -> None:
        self.head = head
        self.rows: list[Row] = []
        self._document = document
        self._page = page
        self._folder = folder
        self._stem = stem

    @property
    def ran(self) -> bool:
        """Whether anything has run."""
        return any(row.status != "not run" for row in self.rows)

    def add(self, row: Row) -> None:
        """Take a row, say it, write it."""
        self.rows.append(row)
        shown = row.reason or ", ".join(f"{name} {_short(value)}" for name, value in row.figures.items())
        print(f"{row.kind}: {row.title}: {row.status}: {shown}", flush=True)
        self.write()

    def finish(self) -> None:
        """All jobs have had their turn."""
        self.head["complete"] = True
        self.write()

    def document(self) -> dict[str, Any]:
        """What is written."""
        return {**self.head, **self._document(self.rows), "rows": [asdict(row) for row in self.rows]}

    def page(self) -> str:
        """The same for people."""
        return self._page(self.document())

    def write(self) -> None:
        """Both files, each in one step."""
        if self._folder is None or not self.ran:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        _replace(self._folder / f"{self._stem}.json", json.dumps(self.document(), indent=2) + "\n")
        _replace(self._folder / f"{self._stem}.md", self.page())


def run_jobs(jobs: Iterable[Job], results: Results, clock: Clock) -> None:
    """Every job in its turn; what does not fit into the time is *not run*, and a smaller one after it may be."""
    for job in jobs:
        if not clock.allows(job):
            results.add(job.row.ended("not run", OUT_OF_TIME))
            continue
        begun = time.monotonic()
        try:
            row = job.measure(job.row)
        except Exception as error:  # noqa: BLE001 - one that breaks must not cost the others
            traceback.print_exc(file=sys.stderr)
            row = job.row.ended("failed", f"broke: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
        clock.took(job, time.monotonic() - begun)
        results.add(row)


def _replace(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(path)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
