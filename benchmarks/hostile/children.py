"""Work in another process: it may crash or hang, and only its answer comes back."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

BROKEN = "BROKEN"
"""How an answer begins that must not be."""


class Worker:
    """A process that answers one question after another, and is replaced when it breaks or has answered many.

    Importing the runtimes takes a second, far longer than most questions, so it is not a new one each time.
    """

    def __init__(self, timeout_s: float = 60, most: int = 200) -> None:
        self._timeout_s, self._most = timeout_s, most
        self._process: Any = None
        self._answered = 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._end()

    def answer_of(self, work: Callable[..., str], *arguments: Any) -> str:
        """What ``work`` returns; an exception, a crash or no end in time is broken."""
        if self._process is None:
            self._start()
        try:
            self._connection.send((work, arguments))
            answer: str = self._connection.recv() if self._connection.poll(self._timeout_s) else f"{BROKEN}: no end"
        except (EOFError, OSError):
            self._process.join()
            answer = f"{BROKEN}: the process ended with {self._process.exitcode} and said nothing"
        self._answered += 1
        if answer.startswith(BROKEN) or self._answered >= self._most:
            self._end()
        return answer

    def _start(self) -> None:
        # Not forked: the caller may have threads, which a fork would not have.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._answered = 0

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._process = None


def _serve(questions: Connection) -> None:
    # What a command or a runtime prints is not what is judged.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    while True:
        work, arguments = questions.recv()
        try:
            questions.send(work(*arguments))
        except BaseException as error:  # noqa: BLE001 - this is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            said = f"{type(error).__name__} in {where.filename.rsplit('/', 1)[-1]}:{where.lineno}: {error}"
            questions.send(f"{BROKEN}: {said}")
