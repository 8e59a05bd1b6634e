"""Files that a user names, held open: for what is too large to be read as bytes by :func:`gate.read_file`."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from engines.errors import InputError


@contextmanager
def opened_file(path: str | Path, most: int) -> Iterator[BinaryIO]:
    """A regular file of at most so many bytes, to be read. Links are the user's, and followed.

    Raises:
        InputError: a pipe or a device, or more bytes than that; the message names the file.
        OSError: a folder, or what the system does not give, as ``open`` raises it.
    """
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        held = os.fstat(descriptor)
        if stat.S_ISDIR(held.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(held.st_mode):
            raise InputError(f"{path} is a pipe or a device, where a file is needed")
        if held.st_size > most:
            raise InputError(f"{path} is larger than {most / 2**30:.0f} GiB, the most that is read of such a file")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            yield stream
    finally:
        os.close(descriptor)
