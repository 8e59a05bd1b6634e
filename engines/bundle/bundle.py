"""A bundle: the directory that ``export`` writes and everything else reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.bundle.arrays import npy_from_bytes
from engines.bundle.channels import check_channels
from engines.bundle.contents import Contents, Used, record_of
from engines.bundle.gate import Folder
from engines.bundle.limits import RECORD_BYTES
from engines.bundle.manifest import (
    LARGEST_MANIFEST,
    SCHEMA_VERSION,
    EngineRecord,
    FileRecord,
    Manifest,
    ReferenceRecord,
    TargetManifest,
    TrunkRecord,
    TuningRecord,
    json_from_target,
    manifest_from_json,
    target_from_json,
)
from engines.bundle.names import ENGINES, MANIFEST_NAME, SIGNATURE_NAME, TARGET_NAME, TARGET_SIGNATURE_NAME
from engines.bundle.names import REPORTS as REPORTS
from engines.bundle.records import BuildRecord, json_from_record
from engines.bundle.snapshot import Snapshot
from engines.errors import BundleError, UntrustedBundle
from engines.schedules.schedule import Precision, Schedule

_Used = TypeVar("_Used")


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifests have been read; :meth:`open` also proves its files."""

    folder: Folder
    """The directory, opened once: whatever comes to lie at its path, this bundle is what was opened."""
    manifest: Manifest
    """What the export wrote."""
    target: TargetManifest
    """What was added where the bundle runs."""
    target_sha256: str | None
    """Of ``target.json``; ``None`` where there is none."""
    _used: Used = field(default_factory=Used, repr=False, compare=False)

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifests and verify size and SHA-256 of every file they list, before anything is parsed.

        A bundle that is replaced meanwhile is read anew.

        Raises :class:`BundleError` when the bundle is absent, damaged or of another schema, or when it names a path
        outside itself or holds links or anything but files.
        """

        def verified(bundle: Bundle) -> Bundle:
            bundle.verify()
            return bundle

        return cls.read_and(verified, path)

    @classmethod
    def read_and(cls, use: Callable[[Bundle], _Used], path: str | Path) -> _Used:
        """Read the manifests of the bundle at a path and use it; what the use gives.

        A bundle that is replaced meanwhile falls to pieces in the hands of who uses it; then the one in its place is
        used. For what reads files before all others are verified: each verifies what it reads, and :meth:`verify` the
        rest, so that nothing is hashed twice.
        """
        while True:
            folder = _folder(Path(path))
            try:
                return use(cls.read(folder))
            except BundleError:
                if folder.is_there:
                    raise

    def verify(self) -> None:
        """Verify size and SHA-256 of every listed file that was not verified yet, and the number of classes.

        Raises :class:`BundleError`.
        """
        self._contents.verify()
        check_channels(self.manifest, self.content)

    @classmethod
    def read(cls, folder: Folder) -> Bundle:
        """Read the manifests alone; each file is still verified when it is used. Raises as :meth:`open` does."""
        try:
            document = folder.read(MANIFEST_NAME, LARGEST_MANIFEST)
        except FileNotFoundError as error:
            raise BundleError(f"{folder.path} is not a bundle: it has no {MANIFEST_NAME}") from error
        except OSError as error:
            raise BundleError(f"cannot read {folder.path / MANIFEST_NAME}: {error.strerror}") from error
        manifest = manifest_from_json(document)
        return cls(folder, manifest, *_read_target(folder, manifest, record_of(document).sha256))

    @classmethod
    def of(cls, source: Bundle | str | Path) -> Bundle:
        """An open bundle as it is, and the one of a path opened."""
        return source if isinstance(source, Bundle) else cls.open(source)

    @property
    def path(self) -> Path:
        """Where the bundle lay when it was opened, as the user named it."""
        return self.folder.path

    @property
    def engines(self) -> list[EngineRecord]:
        """Those that were built for it."""
        return self.target.engines

    @property
    def tunings(self) -> list[TuningRecord]:
        """What was measured of its schedules."""
        return self.target.tunings

    @cached_property
    def _contents(self) -> Contents:
        return Contents(self.folder, self.manifest, self.target, self._used)

    @property
    def files(self) -> Mapping[str, FileRecord]:
        """All files that are listed."""
        return self._contents.files

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 by name: of ``manifest.json`` and of every file that is listed. What a record of it is bound to."""
        return {name: record.sha256 for name, record in self.target.files.items()} | self.export_digests

    @property
    def export_digests(self) -> dict[str, str]:
        """SHA-256 by name of what was exported: ``manifest.json`` and every file that it lists."""
        # What was read counts, whatever a list says.
        read = {MANIFEST_NAME: self.target.manifest_sha256}
        return {name: record.sha256 for name, record in self.manifest.files.items()} | read

    @property
    def target_digests(self) -> dict[str, str]:
        """SHA-256 by name of what was added on the target, and of the manifest that it was added to; or nothing."""
        if self.target_sha256 is None:
            return {}
        read = {MANIFEST_NAME: self.target.manifest_sha256, TARGET_NAME: self.target_sha256}
        return {name: record.sha256 for name, record in self.target.files.items()} | read

    @property
    def unlisted(self) -> list[str]:
        """What lies in the directory that no manifest lists, but for manifests and reports; it is never read."""
        folders = {"", *(str(parent) for name in self.files for parent in PurePosixPath(name).parents if parent.name)}
        own = {MANIFEST_NAME, TARGET_NAME, SIGNATURE_NAME, TARGET_SIGNATURE_NAME, REPORTS}
        known = {*self.files, *folders, *own}
        lying = (f"{folder}/{name}" if folder else name for folder in sorted(folders) for name in self._names(folder))
        return [name for name in lying if name not in known]

    def content(self, name: str) -> bytes:
        """The verified content of a listed file. Raises :class:`BundleError`."""
        return self._contents.read(name)

    def file(self, name: str) -> Path:
        """The path of a private copy of a listed file, which is as the manifest says and stays so.

        For what insists on a path. Beside a graph lie its weights. The copy is there as long as the bundle is open;
        where that is too long, see :meth:`copies`. Raises :class:`BundleError`, and :class:`OutputError` where there is
        no room for it.
        """
        return self._contents.copied(name)

    @contextmanager
    def copies(self) -> Iterator[Callable[[str], Path]]:
        """What :meth:`file` does, with copies that are gone at the end of the block."""
        with Snapshot() as snapshot:
            yield lambda name: self._contents.copied_into(name, snapshot)

    def holds(self, path: Path) -> bool:
        """Whether ``path`` is a manifest or a file that they list, by whatever name or link."""
        own = (self.path / name for name in (MANIFEST_NAME, TARGET_NAME, *self.files))
        return path.exists() and any(held.exists() and path.samefile(held) for held in own)

    def trunk_graph(self, trunk: TrunkRecord, precision: Precision) -> str:
        """The graph of a trunk to compute in ``precision``. Raises :class:`BundleError` where there is none."""
        graph = precision.graph
        if graph not in trunk.graphs:
            held = ", ".join(sorted(held.value for held in trunk.graphs))
            raise BundleError(
                f"the bundle has no {graph.value} trunk (it has {held}); "
                f'export it with precisions=("{graph.value}",)'
                + (" and calibration_frames=" if graph is Precision.INT8 else "")
            )
        return trunk.graphs[graph]

    def reference_arrays(self, case: ReferenceRecord) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Frame ``(H, W, 3)`` uint8 and PyTorch's logits ``(classes, i, j)`` float32 of a reference case."""
        manifest, (h, w) = self.manifest, case.window
        height, width = manifest.input.padded_size
        shape = (len(manifest.classes), height // h, width // w)
        return (
            npy_from_bytes(self.content(case.frame), "|u1", (*manifest.input.size, 3), self.path / case.frame),
            npy_from_bytes(self.content(case.logits), "<f4", shape, self.path / case.logits),
        )

    def edge_logits(self) -> NDArray[np.float32]:
        """PyTorch's logits ``(frames, classes, i, j)`` float32 of the generated frames, as many as there are."""
        manifest, edges = self.manifest, self.manifest.edges
        if edges is None:
            return np.zeros((0, len(manifest.classes), 0, 0), np.float32)
        (h, w), (height, width) = edges.window, manifest.input.padded_size
        shape = (len(edges.frames), len(manifest.classes), height // h, width // w)
        return npy_from_bytes(self.content(edges.logits), "<f4", shape, self.path / edges.logits)

    def report(self, name: str, most: int = RECORD_BYTES) -> bytes | None:
        """The content of a file in ``reports/`` of at most so many bytes; ``None`` where there is none.

        Nothing proves it: it is checked as it is parsed. Raises :class:`BundleError`.
        """
        try:
            return self.folder.read(f"{REPORTS}/{name}", most)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BundleError(f"{self.path / REPORTS / name} cannot be read: {error.strerror}") from error

    def reports(self) -> list[str]:
        """Names of the files in ``reports/``."""
        return self._names(REPORTS)

    def write_report(self, name: str, content: bytes) -> None:
        """Replace a file in ``reports/`` in one step. Raises :class:`OutputError`."""
        self.folder.write(f"{REPORTS}/{name}", content)

    def check_reports(self) -> None:
        """Raise :class:`OutputError` unless reports can be written: said before the work, not after it."""
        self.folder.check_writable(REPORTS)

    def with_engine(
        self,
        backend: str,
        precision: Precision,
        schedule: Schedule,
        *,
        plan: bytes,
        prepare: bytes,
        record: BuildRecord,
    ) -> Bundle:
        """Store the plans of the trunk and of ``prepare.onnx`` and their build record; give the new bundle.

        They take the place of an engine for the same use.

        File names carry a hash of their content, so nothing is overwritten, and ``target.json`` is replaced last:
        until then readers see the bundle as it was. Engines that others have stored meanwhile are kept, but for a
        bundle that is held (:meth:`hold`): then it is refused. Raises :class:`OutputError` where the bundle cannot be
        written, or was replaced meanwhile, and :class:`UntrustedBundle` for a held one that others have added to.
        """
        document = json_from_record(record)
        beginning = record_of(plan + prepare + document).sha256[:12]
        trunk = self.manifest.trunk_of(schedule)
        use = f"b{schedule.sub_batch}-{backend}-{beginning}"
        stem = f"{PurePosixPath(trunk.graphs[precision.graph]).stem}-{use}"
        engine = EngineRecord(
            engine=f"{ENGINES}/{stem}.engine",
            prepare=f"{ENGINES}/prepare-{use}.engine",
            record=f"{ENGINES}/{stem}.json",
            backend=backend,
            precision=precision,
            schedule=schedule,
        )
        contents = {engine.engine: plan, engine.prepare: prepare, engine.record: document}
        with self.folder.locked():
            current = self._current()
            try:
                for name, content in contents.items():
                    self.folder.write(name, content)
                others = [held for held in current.engines if held.use != engine.use]
                kept = {name for held in others for name in held.files}
                files = {name: known for name, known in current.files.items() if name in kept}
                stored = msgspec.structs.replace(
                    current,
                    engines=[*others, engine],
                    files=files | {name: record_of(content) for name, content in contents.items()},
                )
                digest = self._write_target(stored)
            except BaseException:
                self._remove(contents.keys() - current.files.keys())
                raise
            self._remove(current.files.keys() - stored.files.keys())
        return self._with(stored, digest)

    def with_tuning(self, tuning: TuningRecord) -> Bundle:
        """Record measurements of schedules; give the new bundle.

        They take the place of those for the same device, backend, precision and runtime. ``target.json`` is replaced
        in one step, and what others have stored meanwhile is kept. Raises as :meth:`with_engine` does.
        """
        with self.folder.locked():
            current = self._current()
            others = [held for held in current.tunings if held.use != tuning.use]
            stored = msgspec.structs.replace(current, tunings=[*others, tuning])
            digest = self._write_target(stored)
        return self._with(stored, digest)

    def hold(self) -> None:
        """From now on add to this ``target.json`` alone, as this bundle and those that are made of it know it.

        For who has proven who wrote it: what others put there afterwards was not looked at, and must not go on under
        the name of who signs next.
        """
        self._used.held = True

    def check_unchanged(self) -> FileRecord:
        """Raise :class:`BundleError` unless the ``manifest.json`` on the disk is still this bundle's; what it is."""
        try:
            found = record_of(self.folder.read(MANIFEST_NAME, LARGEST_MANIFEST))
        except (OSError, BundleError):
            found = None
        if found is None or found.sha256 != self.target.manifest_sha256:
            raise BundleError(f"{self.path} was exported anew meanwhile; do it again")
        return found

    def check_writable(self) -> None:
        """Raise :class:`OutputError` unless engines can be stored: said before a build, not after it."""
        # target.json lies beside the engines' directory, and is written anew too.
        for name in ("", *({ENGINES} & set(self._names("")))):
            self.folder.check_writable(name)

    def _with(self, target: TargetManifest, digest: str) -> Bundle:
        return replace(self, target=target, target_sha256=digest)

    def _current(self) -> TargetManifest:
        """``target.json`` as it is on the disk now, to be added to."""
        self.check_unchanged()
        target, digest = _read_target(self.folder, self.manifest, self.target.manifest_sha256)
        if self._used.held and digest != self.target_sha256:
            raise UntrustedBundle(
                f"{self.path / TARGET_NAME} is not the one that was verified: others have written it since; nothing "
                "was added to it"
            )
        return target

    def _write_target(self, target: TargetManifest) -> str:
        """Replace ``target.json``; its SHA-256."""
        document = json_from_target(target, self.manifest)
        self.folder.write(TARGET_NAME, document)
        return record_of(document).sha256

    def _remove(self, names: set[str]) -> None:
        for name in names:
            # What cannot be removed is listed no more, so it is not read.
            with suppress(OSError, BundleError):
                self.folder.remove(name)

    def _names(self, folder: str) -> list[str]:
        try:
            return self.folder.names(folder)
        except OSError as error:
            raise BundleError(f"cannot read {self.path / folder}: {error.strerror}") from error


def _folder(path: Path) -> Folder:
    try:
        return Folder(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST_NAME}") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error


def _read_target(folder: Folder, manifest: Manifest, manifest_sha256: str) -> tuple[TargetManifest, str | None]:
    """What was added, and the SHA-256 of the file that says so."""
    try:
        document = folder.read(TARGET_NAME, LARGEST_MANIFEST)
    except FileNotFoundError:
        empty = TargetManifest(
            schema_version=SCHEMA_VERSION, manifest_sha256=manifest_sha256, engines=[], tunings=[], files={}
        )
        return empty, None
    except OSError as error:
        raise BundleError(f"cannot read {folder.path / TARGET_NAME}: {error.strerror}") from error
    return target_from_json(document, manifest, manifest_sha256), record_of(document).sha256
