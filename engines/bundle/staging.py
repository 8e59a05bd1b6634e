"""Directories that are either whole or absent.

They are filled under a temporary name beside their place, flushed to the disk, and put there in one step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.bundle.gate import Folder
from engines.bundle.interruptions import half_written
from engines.bundle.renames import UNABLE, Rename, rename
from engines.bundle.temporary import locked_directory, remove_directory
from engines.errors import OutputError


def check_target(target: Path, replaces: str | None) -> None:
    """Raise :class:`OutputError` unless a directory may be put at ``target``.

    What stands there is given up only if it is a directory that is empty or holds a file named ``replaces``: it is
    then one of ours, and no folder of the user's that happens to lie there.
    """
    if "\0" in str(target):
        raise OutputError(f"cannot write to {target}: a name holds no NUL")
    if not target.exists() and not target.is_symlink():
        return
    if replaces is None:
        raise there_already(target)
    # What a link points to is replaced, not the link.
    if not _may_be_replaced(target.resolve(), replaces):
        raise OutputError(f"{target} is there and has no {replaces}, so it is not replaced; choose another place")


def there_already(target: Path) -> OutputError:
    """What is said where something is not to be replaced."""
    return OutputError(f"{target} exists already; choose another place, or replace it with replace=True")


def _may_be_replaced(path: Path, replaces: str) -> bool:
    """Whether a directory is empty or one of ours. No link is."""
    try:
        return path.is_dir() and not path.is_symlink() and (not any(path.iterdir()) or (path / replaces).is_file())
    except OSError:
        # What cannot be looked at is not known to be one of ours.
        return False


@contextmanager
def staged_directory(target: Path, *, replaces: str | None = None) -> Iterator[Path]:
    """Give a fresh directory to fill, and put it at ``target`` when the block ends well.

    When the block raises, an interrupt included, nothing of it remains and what stood at ``target`` is as it
    was. ``replaces`` names the file by which a directory to replace is known; without it nothing is replaced, also
    nothing that came there meanwhile. Readers find the old directory or the new one at every moment, and so does the
    next process where this one is killed; what that leaves under the temporary name is removed by the next call.

    Raises :class:`OutputError` when ``target`` may not be replaced or the place cannot be written.
    """
    check_target(target, replaces)
    # What a link points to is replaced, not the link.
    target = target.resolve()
    with half_written():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            place, lock = locked_directory(f".{target.name}.", ".partial", target.parent)
        except OSError as error:
            raise OutputError(f"cannot write to {_shown(target.parent)}: {error.strerror}") from error
        try:
            # Beside it lies what says that all of it is temporary.
            stage = place / "stage"
            stage.mkdir()
            yield stage
            _flush_tree(stage)
            _put(stage, target, replaces)
            _flush(target.parent)
        except OSError as error:
            raise OutputError(f"cannot write {_shown(target)}: {error.strerror or error}") from error
        finally:
            os.close(lock)
            # What was exchanged for the new directory, or what came of it. What cannot be removed is no failure.
            remove_directory(place)


def _put(stage: Path, target: Path, replaces: str | None) -> None:
    """Rename ``stage`` to ``target``, or exchange the two. Raises ``OSError``, :class:`OutputError`."""
    try:
        _rename_to_nothing(stage, target)
    except FileExistsError:
        if replaces is None:
            raise there_already(target) from None
        # Once more: what stands there now may have come while the directory was filled.
        check_target(target, replaces)
        # Whoever stores something in the old one has finished then, or finds it replaced.
        with Folder(target).locked():
            _exchange(stage, target, replaces)


def _exchange(stage: Path, target: Path, replaces: str) -> None:
    """Let two directories change places, and back again where what came out is not to be replaced."""
    own = stage.stat()
    try:
        rename(stage, target, Rename.EXCHANGE)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        reason = "this file system cannot replace a directory in one step; remove the old one first"
        raise OSError(error.errno, reason) from error
    # Between the check of a name and the exchange something else may have taken the name. What lies at the other one
    # now is what would be removed.
    exchanged = True
    while not (_may_be_replaced(stage, replaces) or os.path.samestat(own, stage.lstat())):
        exchanged = False
        try:
            rename(stage, target, Rename.EXCHANGE)
        except FileNotFoundError:
            _rename_to_nothing(stage, target)
            break
    if not exchanged:
        raise OutputError(f"{target} was replaced by something else meanwhile, which stays; choose another place")


def _rename_to_nothing(stage: Path, target: Path) -> None:
    """Rename a directory to a name that nothing has. Raises ``OSError``, ``FileExistsError`` where something has it."""
    try:
        rename(stage, target, Rename.NOREPLACE)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        # A plain rename replaces an empty directory: one that is made here, for else it would be another's.
        target.mkdir()
        stage.rename(target)


def _shown(path: Path) -> str:
    """Relative to the working directory where it lies below, as users name it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _flush_tree(directory: Path) -> None:
    for path in sorted(directory.rglob("*")):
        _flush(path)
    _flush(directory)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
