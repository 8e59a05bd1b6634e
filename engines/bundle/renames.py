"""Renames of Linux that a plain one cannot do: to a name that nothing has, and two names that change places."""

from __future__ import annotations

import ctypes
import errno
import os
from enum import IntEnum
from pathlib import Path

UNABLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
"""What a file system, or the system, says that has no such rename."""


class Rename(IntEnum):
    """What becomes of what has the new name. Of Linux's ``stdio.h``."""

    NOREPLACE = 1
    """Nothing may have it, or the rename is a ``FileExistsError``."""
    EXCHANGE = 2
    """It gets the old name."""


def rename(old: str | Path, new: str | Path, kind: Rename, directory: int = -100) -> None:
    """Rename in one step. Names are relative to a directory's descriptor, by default to the working directory.

    Raises ``OSError``, with a number of :data:`UNABLE` where the file system has no such rename.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    number = errno.ENOSYS
    if hasattr(libc, "renameat2"):
        if not libc.renameat2(directory, os.fsencode(old), directory, os.fsencode(new), int(kind)):
            return
        number = ctypes.get_errno()
    raise OSError(number, os.strerror(number))
