"""The gate: how files of others are opened.

A bundle is data from somebody else, and so is every image and checkpoint. Two ways lead to their content, and none
beside them: :func:`read_file` for a file that the user names, and :class:`Folder` for what lies in a bundle. Both take
regular files only and a bounded number of bytes; a folder is opened once, and no link below it is followed.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from engines.bundle.interruptions import half_written, undisturbed
from engines.bundle.renames import UNABLE, Rename, rename
from engines.errors import BundleError, InputError, OutputError

# Without O_NONBLOCK, opening a pipe waits until somebody writes to it.
_READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_CREATING = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY

LONGEST_WAIT_S = 60.0
"""For a lock: what is done under one takes milliseconds, and storing a large engine a few seconds."""
_BETWEEN_TRIES_S = 0.01


def read_file(path: str | Path, most: int) -> bytes:
    """The content of a regular file that the user names, of at most so many bytes. Links are the user's, and followed.

    Raises:
        InputError: a pipe, a device or a folder, or more bytes than that; the message names the file.
        OSError: the system does not give it, as ``open`` raises it.
    """
    with opened_file(path, most) as stream:
        content = stream.read(most + 1)
        if len(content) > most:
            raise InputError(f"{path} {_too_large(most)}")
        return content


@contextmanager
def opened_file(path: str | Path, most: int) -> Iterator[BinaryIO]:
    """The same file as a stream, for what is too large to be read as bytes. Raises as :func:`read_file` does."""
    with _stream(_opened(path, _READING), lambda reason: InputError(f"{path} {reason}")) as (stream, size):
        if size > most:
            raise InputError(f"{path} {_too_large(most)}")
        yield stream


class Folder:
    """A directory that is opened once: everything below it is opened relative to it, whatever its path comes to mean.

    Names are relative, with ``/`` between their parts. It is closed when nothing refers to it any more.
    """

    def __init__(self, path: str | Path) -> None:
        """Open ``path``, which the user names: links are followed here. Raises ``OSError``."""
        self.path = Path(path)
        # Whatever the working directory comes to be.
        self._place = self.path.absolute()
        self._descriptor = _opened(self.path, _FOLDER)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    @property
    def is_there(self) -> bool:
        """Whether the path still leads to this directory: it may have been replaced by another one."""
        try:
            now = self._place.stat()
        except OSError:
            return False
        return os.path.samestat(now, os.fstat(self._descriptor))

    @contextmanager
    def opened(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        """A regular file, to be read, and its bytes. Who reads it bounds what is read: it may grow.

        Raises:
            BundleError: a link, a pipe, a device or a folder, or a name that leaves the directory.
            OSError: the system does not give it, as ``open`` raises it.
        """
        with self._holding(name) as (directory, last):
            try:
                descriptor = os.open(last, _READING | os.O_NOFOLLOW, dir_fd=directory)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise BundleError(f"{self.path / name} is a link; a bundle has none") from error
                raise
        with _stream(descriptor, lambda reason: BundleError(f"{self.path / name} {reason}")) as opened:
            yield opened

    def read(self, name: str, most: int) -> bytes:
        """The content of a file of at most so many bytes. Raises as :meth:`opened` does, and for more bytes."""
        with self.opened(name) as (stream, size):
            content = b"" if size > most else stream.read(most + 1)
        if max(size, len(content)) > most:
            raise BundleError(f"{self.path / name} {_too_large(most)}")
        return content

    def names(self, name: str = "") -> list[str]:
        """What lies in the directory, or in one below it; nothing where that is not there. Raises as :meth:`opened`."""
        try:
            with self._holding(f"{name}/x" if name else "x") as (directory, _):
                return sorted(os.listdir(directory))  # noqa: PTH208 - of a descriptor
        except FileNotFoundError:
            return []

    def write(self, name: str, content: bytes) -> None:
        """Replace a file in one step; the directories in its name are made.

        What stands there is replaced, a link itself and not what it points to. Raises :class:`OutputError`, and
        :class:`BundleError` for a name that leaves the directory.
        """
        try:
            with self._holding(name, make=True) as (directory, last):
                # Who may read the directory may read what is added to it, whatever the mask of who adds it; and what
                # lies there may be a file of others, which nobody may do more with than with the directory.
                open_to = stat.S_IMODE(os.fstat(directory).st_mode)
                _write(directory, last, content, open_to, most=open_to)
        except OSError as error:
            raise OutputError(f"cannot write {self.path / name}: {error.strerror or error}") from error

    def check_writable(self, name: str = "") -> None:
        """Raise :class:`OutputError` unless files can be put into the directory, or one below it, which is made."""
        where = self.path / name
        try:
            with self._holding(f"{name}/x" if name else "x", make=True) as (directory, _):
                partial = _partial_name("check")
                os.close(os.open(partial, _CREATING, 0o600, dir_fd=directory))
                os.unlink(partial, dir_fd=directory)
        except OSError as error:
            raise OutputError(f"cannot write to {where}: {error.strerror}") from error

    def remove(self, name: str) -> None:
        """Remove a file, or a link; harmless where there is none. Raises ``OSError``."""
        with contextlib.suppress(FileNotFoundError), self._holding(name) as (directory, last):
            os.unlink(last, dir_fd=directory)

    @contextmanager
    def locked(self, longest_wait_s: float | None = None) -> Iterator[None]:
        """Inside, no other process or thread that locks this directory is at work on it: they wait for one another.

        Not for ever: whoever may read a directory can lock it. The lock ends with the process, however that ends, and
        leaves no file behind. Raises :class:`OutputError` where it cannot be locked within ``longest_wait_s``,
        by default :data:`LONGEST_WAIT_S`; :class:`BundleError` where the path has come to lead to another directory.
        """
        # A descriptor of its own: a lock belongs to one, and threads share that of the folder.
        try:
            descriptor = os.open(".", _FOLDER, dir_fd=self._descriptor)
            try:
                _lock(descriptor, LONGEST_WAIT_S if longest_wait_s is None else longest_wait_s)
            except OSError:
                os.close(descriptor)
                raise
        except BlockingIOError as error:
            raise OutputError(f"another process is at work in {self.path}; wait for its end") from error
        except OSError as error:
            raise OutputError(f"cannot lock {self.path}: {error.strerror}") from error
        try:
            if not self.is_there:
                raise BundleError(f"{self.path} was exported anew meanwhile; do it again")
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def _holding(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The descriptor of the directory that holds a file, and the last part of its name."""
        *folders, last = parts_of(name)
        directory = os.dup(self._descriptor)
        try:
            for depth, folder in enumerate(folders, 1):
                if make:
                    _make_folder(folder, directory)
                try:
                    inner = os.open(folder, _FOLDER | os.O_NOFOLLOW, dir_fd=directory)
                except OSError as error:
                    # A link to a folder is reported as either.
                    if error.errno in (errno.ELOOP, errno.ENOTDIR):
                        place = self.path.joinpath(*folders[:depth])
                        if make:
                            raise OutputError(f"cannot write to {place}: it is a link or no folder") from error
                        raise BundleError(f"{place} is a link or no folder") from error
                    raise
                os.close(directory)
                directory = inner
            yield directory, last
        finally:
            os.close(directory)


def _lock(descriptor: int, longest_wait_s: float) -> None:
    end = time.monotonic() + longest_wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(_BETWEEN_TRIES_S)
        else:
            return


def _make_folder(name: str, parent: int) -> None:
    """Make a directory that is as open as its parent; harmless where there is one."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent)
        made = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
        try:
            os.fchmod(made, stat.S_IMODE(os.fstat(parent).st_mode) & 0o777)
        finally:
            os.close(made)


def parts_of(name: str) -> tuple[str, ...]:
    """The parts of a relative name. Raises :class:`BundleError` for one that leaves its directory, or is none."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise BundleError(f"{name!r} leaves the bundle")
    return path.parts


def write_file(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write the file at ``path``, which the user names, in one step. Raises :class:`OutputError`.

    It is written under a name that nobody can foresee and that must be new, flushed, and renamed. Where ``replace`` is
    false nothing is replaced, also nothing that came there meanwhile.
    """
    write_files({path: content}, replace=replace)


def write_files(contents: Mapping[Path, bytes], *, replace: bool = True) -> None:
    """Write files of one folder that belong together, each as :func:`write_file` does.

    All are written and flushed first; then they get their names, with no interruption between two of them. Raises
    :class:`OutputError`, and where ``replace`` is false none of them is left then.
    """
    path = next(iter(contents))
    put: list[Path] = []
    try:
        for held in contents:
            _check_name(held)
        directory = _opened(path.parent, _FOLDER)
        try:
            with contextlib.ExitStack() as staging:
                partials = {
                    held: staging.enter_context(_staged(directory, held.name, content))
                    for held, content in contents.items()
                }
                with undisturbed():
                    for path, partial in partials.items():
                        _put(partial, path.name, directory, replace=replace)
                        put.append(path)
        except BaseException:
            for held in [] if replace else put:
                os.unlink(held.name, dir_fd=directory)
            raise
        finally:
            os.close(directory)
    except FileExistsError as error:
        raise OutputError(
            f"{path} is there already, and is not replaced; move it away, or choose another place"
        ) from error
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


def _opened(path: str | Path, flags: int) -> int:
    """A descriptor of what a user names. Raises ``OSError``."""
    _check_name(path)
    return os.open(path, flags)


def _check_name(path: str | Path) -> None:
    """Raise ``OSError`` for a name that no file has: ``os.open`` answers a NUL with a ``ValueError``."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, "a name holds no NUL", str(path))


def _write(directory: int, name: str, content: bytes, mode: int | None = None, *, most: int = 0o777) -> None:
    with _staged(directory, name, content, mode, most=most) as partial:
        _put(partial, name, directory, replace=True)


@contextmanager
def _staged(directory: int, name: str, content: bytes, mode: int | None = None, *, most: int = 0o777) -> Iterator[str]:
    """The content, flushed, under a name that is to be given up inside the block; where that fails it is removed."""
    partial = _partial_name(name)
    # As readable as the file that it replaces, else as ``mode`` says, or as any other of its owner; within ``most``,
    # and never to be executed, least of all by its owner's right.
    with contextlib.suppress(OSError):
        held = os.stat(name, dir_fd=directory, follow_symlinks=False)
        mode = held.st_mode if stat.S_ISREG(held.st_mode) else mode
    with half_written():
        descriptor = os.open(partial, _CREATING, 0o666, dir_fd=directory)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                if mode is not None:
                    os.fchmod(descriptor, mode & most & 0o666)
                os.fsync(descriptor)
            yield partial
        except BaseException:
            # Where it could not be written, it often cannot be removed either, and the first error says why.
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=directory)
            raise
        os.fsync(directory)


def _put(partial: str, name: str, directory: int, *, replace: bool) -> None:
    if replace:
        os.replace(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
    else:
        _rename_to_nothing(partial, name, directory)


def _rename_to_nothing(old: str, new: str, directory: int) -> None:
    try:
        rename(old, new, Rename.NOREPLACE, directory)
    except OSError as error:
        if error.errno not in UNABLE:
            raise
        # A link is never made over something either; it only leaves the old name behind.
        os.link(old, new, src_dir_fd=directory, dst_dir_fd=directory)
        os.unlink(old, dir_fd=directory)


def _partial_name(name: str) -> str:
    # A name has at most 255 bytes on the usual file systems.
    return f".{name[:40]}.{secrets.token_hex(8)}.partial"


def is_partial(name: str) -> bool:
    """Whether a file of this name was being written in a folder's place when the process was killed."""
    return re.fullmatch(r"\..{1,40}\.[0-9a-f]{16}\.partial", name) is not None


@contextmanager
def _stream(descriptor: int, refused: Callable[[str], InputError]) -> Iterator[tuple[BinaryIO, int]]:
    """A regular file as a stream, and its bytes; the descriptor is closed."""
    held = os.fstat(descriptor)
    if reason := _refusal(held):
        os.close(descriptor)
        raise refused(reason)
    with os.fdopen(descriptor, "rb") as stream:
        yield stream, held.st_size


def _refusal(held: os.stat_result) -> str:
    """Why a file is not read, by what the system says of it; or ``""``."""
    if stat.S_ISREG(held.st_mode):
        return ""
    kinds = {stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFDIR: "a folder"}
    return f"is {kinds.get(stat.S_IFMT(held.st_mode), 'something else')}, where a file is needed"


def _too_large(most: int) -> str:
    size = f"{most >> 30} GiB" if most >= 2**30 else f"{most >> 20} MiB"
    return f"is larger than {size}, the most that is read of such a file"
