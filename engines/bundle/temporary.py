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
    while True:
        path = Path(tempfile.mkdtemp(suffix, prefix, place))
        try:
            return path, _marked(path)
        except FileNotFoundError:
            # Another process took it for an orphan while it was empty.
            continue
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise


def remove_directory(path: Path) -> None:
    """Remove one with all that it holds, the marker last: who is killed meanwhile leaves one that is known.

    What cannot be removed is no failure.
    """
    with suppress(OSError):
        for entry in os.scandir(path):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != MARKER:
                with suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108 - of an entry
    shutil.rmtree(path, ignore_errors=True)


def _marked(path: Path) -> int:
    """Put the marker into a directory; its descriptor, which holds the lock. Raises ``OSError``."""
    descriptor = os.open(path / _NEW, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # It is locked and whole before it is a marker.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, _words(path))
        (path / _NEW).rename(path / MARKER)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


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
    """Remove a directory that has a marker whose lock nobody holds, or nothing at all. Raises ``OSError``."""
    try:
        marker = _opened(MARKER, directory)
    except FileNotFoundError:
        # Its owner was killed before there was a marker. What is not empty stays.
        with suppress(FileNotFoundError):
            _unlink_unlocked(directory)
        path.rmdir()
        return
    try:
        held, words = os.fstat(marker), _words(path)
        if stat.S_ISREG(held.st_mode) and held.st_uid == os.getuid() and held.st_size == len(words):
            fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.read(marker, len(words)) == words:
                remove_directory(path)
    finally:
        os.close(marker)


def _unlink_unlocked(directory: int) -> None:
    """Remove what was to become a marker. Raises ``OSError``."""
    new = _opened(_NEW, directory)
    try:
        if stat.S_ISREG(os.fstat(new).st_mode):
            fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(_NEW, dir_fd=directory)
    finally:
        os.close(new)


def _opened(name: str, directory: int) -> int:
    # Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
    return os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
