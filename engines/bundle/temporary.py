"""Temporary directories that nobody finds left behind.

Each holds a file that its owner has locked and that says the directory's name. A process that is killed cannot remove
its own; the lock ends with it, so the next process that looks knows that nobody needs the directory any more. Without
that file, of this user and with these words, a directory is somebody's, whatever it is called, and stays.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

MARKER = ".smp-deploy-temporary"
"""Name of the locked file. No file of a bundle begins with a dot."""
_NEW = MARKER + ".new"


def locked_directory(prefix: str, suffix: str, place: Path) -> tuple[Path, int]:
    """A new directory in ``place`` that only this user may enter, and the descriptor whose closing gives up its lock.

    Those of the same prefix and suffix that are left are removed first. Raises ``OSError``.
    """
    _remove_orphans(prefix, suffix, place)
    path = Path(tempfile.mkdtemp(suffix, prefix, place))
    try:
        descriptor = os.open(path / _NEW, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.write(descriptor, _words(path))
            # It is locked before it is a marker, so nobody takes the directory for an orphan meanwhile.
            (path / _NEW).rename(path / MARKER)
        except BaseException:
            os.close(descriptor)
            raise
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return path, descriptor


def _words(path: Path) -> bytes:
    # With its name, so that a copy under another one is nobody's.
    return b"smp-deploy removes this directory when no process holds the lock of this file: " + os.fsencode(path.name)


def _remove_orphans(prefix: str, suffix: str, place: Path) -> None:
    for entry in place.iterdir():
        if not (entry.name.startswith(prefix) and entry.name.endswith(suffix)):
            continue
        with suppress(OSError):
            directory = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if os.fstat(directory).st_uid == os.getuid():
                    _remove_orphan(entry, directory)
            finally:
                os.close(directory)


def _remove_orphan(path: Path, directory: int) -> None:
    """Remove a directory where it has a marker whose lock nobody holds. Raises ``OSError``."""
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    marker = os.open(MARKER, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        held, words = os.fstat(marker), _words(path)
        if stat.S_ISREG(held.st_mode) and held.st_uid == os.getuid() and held.st_size == len(words):
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.read(marker, len(words)) == words:
                shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(marker)
