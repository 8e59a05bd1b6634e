"""What the commands say and how: tables and progress bars on a terminal, plain lines elsewhere.

Results go to stdout, everything else to stderr, so that ``--json`` gives one clean document on stdout.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

_LINE_EVERY_S = 5.0

Advance = Callable[[int, int], None]
"""Called with ``(done, total)`` whenever a piece of work is finished."""


def print_json(document: object) -> None:
    """The one JSON document of a command with ``--json``."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def note(message: str) -> None:
    """A line for the person at the terminal, on stderr."""
    typer.echo(message, err=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """A table on stdout: drawn on a terminal, plain aligned text elsewhere."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    # Files and pipes have no width; a fixed one keeps long cells whole.
    Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False).print(table)


@contextmanager
def progress(description: str) -> Iterator[Advance]:
    """A progress bar with a time estimate on a terminal; elsewhere a line every few seconds, and at both ends."""
    if sys.stderr.isatty():
        with _progress_bar(description) as advance:
            yield advance
    else:
        yield _progress_lines(description)


@contextmanager
def _progress_bar(description: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _progress_lines(description: str) -> Advance:
    started = said = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < _LINE_EVERY_S and 0 < done < total:
            return
        said = now
        if done:
            left_s = (now - started) / done * (total - done)
            note(f"{description}: {done}/{total}, {now - started:.0f} s elapsed, about {left_s:.0f} s left")
        else:
            note(f"{description}: 0/{total}, {now - started:.0f} s elapsed")

    return advance
