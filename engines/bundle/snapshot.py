"""Private copies of a bundle's files, for runtimes that insist on a path.

What is hashed must be what is used. A runtime that opens a path itself opens whatever lies there by then; so it is
given the path of a copy, in a directory that only this user may enter, whose bytes were hashed while they were copied.
What that leaves open: processes of the same user, and root, can change the copy.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from engines.bundle.gate import parts_of
from engines.bundle.temporary import locked_directory, remove_directory
from engines.errors import OutputError

_PREFIX = ".smp-deploy-copies-"
_BLOCK = 1 << 20


class Snapshot:
    """A private directory, which is removed with the object, at the latest when the process ends.

    A process that is killed leaves its directory; the next one that needs a directory removes it. A context manager.
    """

    def __init__(self) -> None:
        """Raises :class:`OutputError` where there is no place for temporary files."""
        try:
            self.path, self._lock = locked_directory(_PREFIX, "", Path(tempfile.gettempdir()))
        except OSError as error:
            raise OutputError(f"cannot make a directory for copies: {error}; TMPDIR may name another place") from error
        self._remove = weakref.finalize(self, _removed, self.path, self._lock, os.getpid())

    def place(self, name: str) -> Path:
        """Where a file of this name lies, or would."""
        return self.path.joinpath(*parts_of(name))

    def add(self, name: str, source: BinaryIO, size: int, sha256: str) -> Path | None:
        """Copy a file of which so many bytes are expected; ``None``, and no copy, where they have another SHA-256.

        Raises :class:`OutputError` where there is no room.
        """
        place = self.place(name)
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with place.open("x+b") as target:
                # By the kernel; and it is the copy that is hashed, which nobody else can change.
                copied = 0
                while copied < size and (more := os.sendfile(target.fileno(), source.fileno(), copied, size - copied)):
                    copied += more
                if copied != size or hash_of(target, size) != sha256:
                    place.unlink()
                    return None
        except BaseException as error:
            with suppress(OSError):
                place.unlink()
            if isinstance(error, OSError):
                raise OutputError(f"cannot copy {name} to {place}: {error.strerror or error}") from error
            raise
        return place

    def put(self, name: str, content: bytes) -> Path:
        """Write a file. Raises :class:`OutputError` where there is no room."""
        place = self.place(name)
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.write_bytes(content)
        except OSError as error:
            raise OutputError(f"cannot copy {name} to {place}: {error.strerror or error}") from error
        return place

    def close(self) -> None:
        """Remove everything; harmless when called again."""
        self._remove()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def hash_of(stream: BinaryIO, size: int) -> str:
    """SHA-256 of a file from its beginning, of so many bytes and, where there is, one more: it may have grown."""
    stream.seek(0)
    digest, left = hashlib.sha256(), size + 1
    while left and (block := stream.read(min(left, _BLOCK))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


def _removed(path: Path, lock: int, owner: int) -> None:
    # A fork ends without being the owner.
    if os.getpid() == owner:
        remove_directory(path)
    os.close(lock)
