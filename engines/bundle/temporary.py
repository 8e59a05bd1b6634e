"""Temporary directories that nobody finds left behind.

Each is locked by its owner. A process that is killed cannot remove its own; the lock ends with it, so the next process
that looks knows that nobody needs the directory any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path


def locked_directory(prefix: str, suffix: str, place: Path) -> tuple[Path, int]:
    """A new directory in ``place`` that only this user may enter, and the descriptor whose closing gives up its lock.

    Those of the same prefix and suffix that are left are removed first. Raises ``OSError``.
    """
    _remove_orphans(prefix, suffix, place)
    while True:
        path = Path(tempfile.mkdtemp(suffix, prefix, place))
        descriptor = _opened(path)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if path.exists():
            return path, descriptor
        # Another process took it for an orphan before it was locked.
        os.close(descriptor)


def _remove_orphans(prefix: str, suffix: str, place: Path) -> None:
    for entry in place.iterdir():
        if not (entry.name.startswith(prefix) and entry.name.endswith(suffix)):
            continue
        with suppress(OSError):
            descriptor = _opened(entry)
            try:
                if os.fstat(descriptor).st_uid == os.getuid():
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(entry, ignore_errors=True)
            finally:
                os.close(descriptor)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
