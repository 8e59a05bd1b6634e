"""Private copies of a bundle's files, for runtimes that insist on a path.

What is hashed must be what is used. A runtime that opens a path itself opens whatever lies there by then; so it is
given the path of a copy, in a directory that only this user may enter, whose bytes were hashed while they were copied.
What that leaves open: processes of the same user, and root, can change the copy.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from engines.bundle.gate import parts_of
from engines.bundle.temporary import locked_directory
from engines.errors import OutputError

_PREFIX = "smp-deploy-"
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

    def add(self, name: str, source: BinaryIO, most: int, check: Callable[[int, str], None]) -> Path:
        """Copy a file; ``check`` is given its bytes and SHA-256, and raises where they are wrong.

        No more is read than tells that there are more than ``most`` bytes.
        Raises :class:`OutputError` where there is no room.
        """
        place = self.place(name)
        digest, size = hashlib.sha256(), 0
        try:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with place.open("xb") as target:
                while size <= most and (block := source.read(_BLOCK)):
                    digest.update(block)
                    size += len(block)
                    target.write(block)
            check(size, digest.hexdigest())
        except BaseException as error:
            with suppress(OSError):
                place.unlink()
            if isinstance(error, OSError):
                raise OutputError(f"cannot copy {name} to {place}: {error.strerror or error}") from error
            raise
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


def _removed(path: Path, lock: int, owner: int) -> None:
    # A fork ends without being the owner.
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)
    os.close(lock)
