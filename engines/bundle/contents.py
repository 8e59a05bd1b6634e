"""The listed files of a bundle: each is what the manifests say, or is not used."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO

from engines.bundle.gate import Folder
from engines.bundle.manifest import FileRecord, Manifest, TargetManifest
from engines.bundle.onnx_files import check_graph
from engines.bundle.snapshot import Snapshot, hash_of
from engines.errors import BundleError


class Used:
    """What was verified of a bundle, and the private copies of it, made when the first one is asked for.

    Bundles that are made of one another share it.
    """

    def __init__(self) -> None:
        self.snapshot: Snapshot | None = None
        self.lock = threading.Lock()
        self.verified: set[str] = set()
        self.held = False
        """Whether ``target.json`` must stay the one that was verified."""


class Contents:
    """Reads what the manifests list in a folder.

    Args:
        folder: of the bundle.
        manifest: what was exported.
        target: what was added.
        used: is kept up to date.
    """

    def __init__(self, folder: Folder, manifest: Manifest, target: TargetManifest, used: Used) -> None:
        self._folder, self._manifest, self._target, self._used = folder, manifest, target, used

    @cached_property
    def files(self) -> dict[str, FileRecord]:
        """All files that are listed."""
        return self._manifest.files | self._target.files

    def verify(self) -> None:
        """Verify size and SHA-256 of every file that was not verified yet. Raises :class:`BundleError`."""
        for name in self.files:
            if name not in self._used.verified:
                self._reading(name, partial(self._check_hash, name))

    def read(self, name: str) -> bytes:
        """The verified content of a file. Raises :class:`BundleError`."""
        content = b""

        def read(stream: BinaryIO, record: FileRecord) -> None:
            nonlocal content
            content = stream.read(record.size)
            if record_of(content) != record:
                raise self._altered(name)

        self._reading(name, read)
        return content

    def copied(self, name: str) -> Path:
        """The path of a private copy, there as long as the bundle is. Raises as :meth:`copied_into` does."""
        # Two threads that want one file: the second one finds it whole.
        with self._used.lock:
            if self._used.snapshot is None:
                self._used.snapshot = Snapshot()
            return self.copied_into(name, self._used.snapshot)

    def copied_into(self, name: str, snapshot: Snapshot) -> Path:
        """A verified copy; beside a graph its weights. Raises :class:`BundleError`, :class:`OutputError`."""
        place = snapshot.place(name)
        if place.exists():
            return place
        if name in self._manifest.graphs:
            weights = self._manifest.weights
            content = self.read(name)
            check_graph(content, name, weights, self.files[weights].size)
            self.copied_into(weights, snapshot)
            return snapshot.put(name, content)

        def copy(stream: BinaryIO, record: FileRecord) -> None:
            if snapshot.add(name, stream, record.size, record.sha256) is None:
                raise self._altered(name)

        self._reading(name, copy)
        return place

    def _check_hash(self, name: str, stream: BinaryIO, record: FileRecord) -> None:
        if hash_of(stream, record.size) != record.sha256:
            raise self._altered(name)

    def _altered(self, name: str) -> BundleError:
        made, remedy = ("built", "build it") if name in self._target.files else ("exported", "export the bundle")
        return BundleError(
            f"{self._folder.path / name} is not the file that was {made} (SHA-256 differs); {remedy} again"
        )

    def _reading(self, name: str, read: Callable[[BinaryIO, FileRecord], None]) -> None:
        """Give a listed file of the right size to ``read``, which raises where its content is not the listed one."""
        if name not in self.files:
            raise BundleError(f"{name!r} is no file of the bundle {self._folder.path}")
        path, record = self._folder.path / name, self.files[name]
        try:
            with self._folder.opened(name) as (stream, size):
                if size != record.size:
                    raise BundleError(
                        f"{path} has {size} bytes, the manifest says {record.size}; the bundle is damaged"
                    )
                read(stream, record)
        except OSError as error:
            # A file that is not there is damage; one that may not be read is not.
            damage = "; the bundle is damaged" if isinstance(error, FileNotFoundError) else ""
            raise BundleError(f"cannot read {path}: {error.strerror}{damage}") from error
        self._used.verified.add(name)


def record_of(content: bytes) -> FileRecord:
    """Size and SHA-256 of a file's content."""
    return FileRecord(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def record_of_file(path: Path) -> FileRecord:
    """Size and SHA-256 of a file of one's own."""
    return record_of(path.read_bytes())
