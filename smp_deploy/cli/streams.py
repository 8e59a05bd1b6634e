"""Standard output and error, on which nothing that is said can fail: whatever the encoding, and whoever reads."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

_UNHEARD = (errno.EPIPE, errno.EBADF)
"""Nobody reads: the reader has left, as ``head`` does, or the stream was closed before the start."""


class Outlet(io.FileIO):
    """A file descriptor that takes everything: what cannot be written is dropped, and why is kept.

    So no command breaks off between its work and its verdict because of what it says.
    """

    failure: OSError | None = None
    """What ended the writing, unless nobody reads."""
    _open = True

    def write(self, data: Any) -> int:
        """All of ``data``, or its beginning, as far as the system takes it; after a failure nothing is written."""
        if self._open:
            try:
                return super().write(data)
            except OSError as error:
                self._open = False
                self.failure = None if error.errno in _UNHEARD else error
        return memoryview(data).nbytes


def open_streams() -> None:
    """Put outlets in place of ``sys.stdout`` and ``sys.stderr``; characters that an encoding lacks become escapes.

    The descriptor 1 leads to stderr from then on, and stdout has one that nobody else knows: what a library or another
    program prints is no result.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Else the next file that is opened would get this number, and what a library prints.
            os.open(os.devnull, os.O_RDWR)
    results = os.dup(1)
    sys.stdout, sys.stderr = _stream(results, sys.stdout), _stream(2, sys.stderr)
    os.dup2(2, 1)


def failure_of_output() -> OSError | None:
    """Why not all of the results could be written to stdout: a full disk, say. All that was said is written first."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.failure if isinstance(raw, Outlet) else None


def _stream(descriptor: int, before: TextIO | None) -> TextIO:
    if before is not None:
        with suppress(OSError, ValueError):
            before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(Outlet(descriptor, "w", closefd=False)),
        encoding=before.encoding if before is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=descriptor == 2 or os.isatty(descriptor),
    )
