"""Files and directories that are either whole or absent.

Everything is written under a temporary name beside its place, flushed to the disk, and renamed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.errors import OutputError


def check_target(target: Path, replaces: str | None) -> None:
    """Raise :class:`OutputError` unless a directory may be put at ``target``.

    What stands there is given up only if it is a directory that is empty or holds a file named ``replaces``: it is
    then one of ours, and no folder of the user's that happens to lie there.
    """
    if not target.exists() and not target.is_symlink():
        return
    if replaces is None:
        raise OutputError(f"{target} exists already; choose another place, or replace it with replace=True")
    if not target.is_dir() or (any(target.iterdir()) and not (target / replaces).is_file()):
        raise OutputError(f"{target} is there and has no {replaces}, so it is not replaced; choose another place")


@contextmanager
def staged_directory(target: Path, *, replaces: str | None = None) -> Iterator[Path]:
    """Give a fresh directory to fill, and rename it to ``target`` when the block ends well.

    When the block raises, an interrupt included, nothing of it remains and what stood at ``target`` is as it
    was. ``replaces`` names the file by which a directory to replace is known; without it nothing is replaced.
    Raises :class:`OutputError` when ``target`` may not be replaced or the place cannot be written.
    """
    check_target(target, replaces)
    # What a link points to is replaced, not the link.
    target = target.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
    except OSError as error:
        raise OutputError(f"cannot write to {_shown(target.parent)}: {error.strerror}") from error
    try:
        # mkdtemp gives 0o700; a bundle is as readable as any other directory of its owner.
        stage.chmod(0o777 & ~_umask())
        yield stage
        _flush_tree(stage)
        _swap(stage, target)
        _flush(target.parent)
    except OSError as error:
        raise OutputError(f"cannot write {_shown(target)}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _shown(path: Path) -> str:
    """Relative to the working directory where it lies below, as users name it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def write_file(path: Path, content: bytes) -> None:
    """Replace the file at ``path`` by ``content`` in one step. Raises :class:`OutputError`."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        _flush(partial)
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        # Where it could not be written, it often cannot be removed either, and the first error says why.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def locked_directory(path: Path) -> Iterator[None]:
    """Inside, no other process or thread that locks this directory is at work on it: they wait for one another.

    The lock ends with the process, however that ends, and leaves no file behind. Raises :class:`OutputError` where the
    directory is not there or cannot be locked.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        raise OutputError(f"cannot lock {path}: {error.strerror}") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _swap(stage: Path, target: Path) -> None:
    if not target.exists():
        stage.rename(target)
        return
    old = stage.with_suffix(".old")
    try:
        target.rename(old)
        stage.rename(target)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        raise
    # The new directory is in place; what cannot be removed of the old one is no failure.
    shutil.rmtree(old, ignore_errors=True)


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


def _umask() -> int:
    # The only way to read the mask is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask
