"""What the commands say and how: tables and progress bars on a terminal, plain lines elsewhere.

Results go to stdout, everything else to stderr, so that ``--json`` gives one clean document on stdout, whatever the
code of a user's network prints. Nothing of ours is printed but here: whatever text comes from data is shown and not
acted upon, neither by a terminal nor by rich, and what the encoding of a stream lacks is written as an escape.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO

from engines.text import escaped, shown

if TYPE_CHECKING:
    from rich.console import Console

_LINE_EVERY_S = 5.0

Advance = Callable[[int, int], None]
"""Called with ``(done, total)`` whenever a piece of work is finished."""


_results: TextIO | None = None
"""Where results go while a command is at work; ``None`` before and after."""


@contextmanager
def results_alone() -> Iterator[None]:
    """Inside, stdout has results alone: what anybody else prints there goes to stderr. It may be nested."""
    global _results
    if _results is not None:
        yield
        return
    _results = sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results = None


def _stdout() -> TextIO:
    return sys.stdout if _results is None else _results


def print_json(document: object) -> None:
    """The one JSON document of a command with ``--json``; what is not to be seen is escaped, as JSON does."""
    text = _json(document, ensure_ascii=False)
    _print(text if _fitting(text, _stdout()) == text else _json(document, ensure_ascii=True), _stdout())


def print_line(text: str) -> None:
    """A line of results, on stdout."""
    _print(shown(text), _stdout())


def print_lines(text: str) -> None:
    """Lines of results, on stdout."""
    for line in text.split("\n"):
        print_line(line)


def note(message: str) -> None:
    """A line for the person at the terminal, on stderr."""
    _print(shown(message), sys.stderr)


def complain(message: str) -> None:
    """What went wrong, on stderr. Lines after the first are indented: none can pass for another message."""
    first, *others = message.split("\n")
    note(f"smp-deploy: {first}")
    for line in others:
        note(line if line.startswith("  ") else f"  {line}")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None = None) -> None:
    """A table on stdout: drawn on a terminal, plain aligned text elsewhere."""
    from rich.box import SIMPLE
    from rich.table import Table

    def cell(value: object) -> str:
        return _fitting(shown(str(value)), _stdout())

    table = Table(title=None if title is None else cell(title), title_justify="left", box=SIMPLE, pad_edge=False)
    for column in columns:
        table.add_column(cell(column), overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    # Files and pipes have no width; a fixed one keeps long cells whole.
    _console(_stdout(), width=None if _stdout().isatty() else 160).print(table)


@contextmanager
def progress(description: str) -> Iterator[Advance]:
    """A progress bar with a time estimate on a terminal; elsewhere a line every few seconds, and at both ends."""
    if sys.stderr.isatty():
        with _progress_bar(_fitting(shown(description), sys.stderr)) as advance:
            yield advance
    else:
        yield _progress_lines(description)


@contextmanager
def _progress_bar(description: str) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_console(sys.stderr)) as bar:
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


def _console(stream: TextIO, width: int | None = None) -> Console:
    """Of rich, for text that is no markup and has no codes of emoji."""
    from rich.console import Console

    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False)


def _print(text: str, stream: TextIO) -> None:
    print(_fitting(text, stream), file=stream, flush=True)


def _fitting(text: str, stream: TextIO) -> str:
    r"""The text as the stream's encoding can hold it; what it lacks becomes an escape, ``\u20ac``."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _json(document: object, *, ensure_ascii: bool) -> str:
    text = json.dumps(document, indent=2, ensure_ascii=ensure_ascii, allow_nan=False)
    # The line feeds are the document's own: those of its texts are escaped already.
    return "\n".join(escaped(line, _json_escape) for line in text.split("\n"))


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2))
