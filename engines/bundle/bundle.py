"""A bundle: the directory that ``export`` writes and everything else reads."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.bundle.manifest import (
    MANIFEST_NAME,
    EngineRecord,
    FileRecord,
    Manifest,
    ReferenceRecord,
    TrunkRecord,
    TuningRecord,
    json_from_manifest,
    manifest_from_json,
)
from engines.bundle.records import BuildRecord, json_from_record
from engines.bundle.staging import locked_directory, write_file
from engines.errors import BundleError, OutputError
from engines.schedules.schedule import Precision, Schedule


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose manifest has been read; :meth:`open` also proves its files."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest and verify size and SHA-256 of every file it lists, before anything is parsed.

        Raises :class:`BundleError` when the bundle is absent, damaged, of a newer schema, or names a path
        outside itself.
        """
        path = Path(path)
        bundle = cls(path, _read_manifest(path))
        for name, record in bundle.manifest.files.items():
            bundle._verify(name, record)
        return bundle

    @classmethod
    def of(cls, source: Bundle | str | Path) -> Bundle:
        """An open bundle as it is, and the one of a path opened."""
        return source if isinstance(source, Bundle) else cls.open(source)

    def file(self, name: str) -> Path:
        """Where a listed file lies. Raises :class:`BundleError` for a path that leaves the bundle."""
        relative = PurePosixPath(name)
        inside = self.path / relative
        if relative.is_absolute() or ".." in relative.parts or "\\" in name:
            raise BundleError(f"{MANIFEST_NAME} names {name!r}, which leaves the bundle")
        if not inside.resolve().is_relative_to(self.path.resolve()):
            raise BundleError(f"{name!r} is a link that leaves the bundle {self.path}")
        return inside

    def holds(self, path: Path) -> bool:
        """Whether ``path`` is the manifest or a file that it lists, by whatever name or link."""
        own = (self.path / MANIFEST_NAME, *map(self.file, self.manifest.files))
        return path.exists() and any(held.exists() and path.samefile(held) for held in own)

    def trunk_graph(self, trunk: TrunkRecord, precision: Precision) -> Path:
        """The graph of a trunk to compute in ``precision``. Raises :class:`BundleError` where there is none."""
        graph = precision.graph
        if graph not in trunk.graphs:
            held = ", ".join(sorted(held.value for held in trunk.graphs))
            raise BundleError(
                f"the bundle has no {graph.value} trunk (it has {held}); "
                f'export it with precisions=("{graph.value}",)'
                + (" and calibration_frames=" if graph is Precision.INT8 else "")
            )
        return self.file(trunk.graphs[graph])

    def reference_arrays(self, case: ReferenceRecord) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Frame ``(H, W, 3)`` uint8 and PyTorch's logits ``(classes, i, j)`` float32 of a reference case."""
        return np.load(self.file(case.frame)), np.load(self.file(case.logits))

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

        File names carry a hash of their content, so nothing is overwritten, and the manifest is replaced last:
        until then readers see the bundle as it was. Engines that others have stored meanwhile are kept; if the
        graphs have been exported anew meanwhile, the engine belongs to none and :class:`BundleError` says so.
        """
        document = json_from_record(record)
        digest = record_of(plan + prepare + document).sha256[:12]
        trunk = self.manifest.trunk_of(schedule)
        use = f"b{schedule.sub_batch}-{backend}-{digest}"
        graph = trunk.graphs[precision.graph]
        stem = f"{PurePosixPath(graph).stem}-{use}"
        engine = EngineRecord(
            engine=f"engines/{stem}.engine",
            prepare=f"engines/prepare-{use}.engine",
            record=f"engines/{stem}.json",
            backend=backend,
            precision=precision,
            schedule=schedule,
        )
        contents = {engine.engine: plan, engine.prepare: prepare, engine.record: document}
        try:
            for name, content in contents.items():
                _make_directory(self.file(name).parent)
                write_file(self.file(name), content)
            with locked_directory(self.path):
                current = self._current(graph, "the engine was built; build it again")
                replaced = [held for held in current.engines if held.use == engine.use]
                stale = {name for held in replaced for name in held.files} - set(contents)
                files = {name: known for name, known in current.files.items() if name not in stale}
                manifest = msgspec.structs.replace(
                    current,
                    engines=[*(held for held in current.engines if held.use != engine.use), engine],
                    files=files | {name: record_of(content) for name, content in contents.items()},
                )
                write_file(self.path / MANIFEST_NAME, json_from_manifest(manifest))
        except BaseException:
            for name in set(contents) - set(self.manifest.files):
                with contextlib.suppress(OSError):
                    self.file(name).unlink()
            raise
        for name in stale:
            self.file(name).unlink(missing_ok=True)
        return replace(self, manifest=manifest)

    def with_tuning(self, tuning: TuningRecord, graph_precision: Precision) -> Bundle:
        """Record measurements of schedules, which ran the graphs in ``graph_precision``; give the new bundle.

        They take the place of those for the same device, backend, precision and runtime. The manifest is replaced in
        one step, and what others have stored meanwhile is kept; if the graphs have been exported anew meanwhile, the
        measurements are of none and :class:`BundleError` says so.
        """
        with locked_directory(self.path):
            for held in tuning.measurements:
                graph = self.manifest.trunk_of(held.schedule).graphs[graph_precision]
                current = self._current(graph, "it was tuned; tune it again")
            others = [held for held in current.tunings if held.use != tuning.use]
            manifest = msgspec.structs.replace(current, tunings=[*others, tuning])
            write_file(self.path / MANIFEST_NAME, json_from_manifest(manifest))
        return replace(self, manifest=manifest)

    def _current(self, graph: str, doing: str) -> Manifest:
        """The manifest as it is on the disk now; its graph, ``prepare.onnx`` and weights must still be the same."""
        current = _read_manifest(self.path)
        for name in (graph, self.manifest.prepare, self.manifest.weights):
            if current.files.get(name) != self.manifest.files[name]:
                raise BundleError(f"{self.path} was exported anew while {doing}")
        return current

    def check_writable(self) -> None:
        """Raise :class:`OutputError` unless engines can be stored: said before a build, not after it."""
        engines = self.path / "engines"
        # The manifest lies beside the engines, and is written anew too.
        for directory in (self.path, engines) if engines.exists() else (self.path,):
            try:
                with tempfile.TemporaryFile(dir=directory):
                    pass
            except OSError as error:
                raise OutputError(f"cannot write to {directory}: {error.strerror}") from error

    def _verify(self, name: str, record: FileRecord) -> None:
        path = self.file(name)
        try:
            size = path.stat().st_size
            if size != record.size:
                raise BundleError(f"{path} has {size} bytes, the manifest says {record.size}; the bundle is damaged")
            with path.open("rb") as stream:
                digest = _sha256(stream)
        except OSError as error:
            # A file that is not there is damage; one that may not be read is not.
            damage = "; the bundle is damaged" if isinstance(error, FileNotFoundError) else ""
            raise BundleError(f"cannot read {path}: {error.strerror}{damage}") from error
        if digest != record.sha256:
            raise BundleError(f"{path} is not the file that was exported (SHA-256 differs); export the bundle again")


def _read_manifest(path: Path) -> Manifest:
    try:
        document = (path / MANIFEST_NAME).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST_NAME}") from error
    except OSError as error:
        raise BundleError(f"cannot read {path / MANIFEST_NAME}: {error.strerror}") from error
    return manifest_from_json(document)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror}") from error


def record_of(content: bytes) -> FileRecord:
    """Size and SHA-256 of a file's content."""
    return FileRecord(sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def record_of_file(path: Path) -> FileRecord:
    """Size and SHA-256 of a file."""
    with path.open("rb") as stream:
        return FileRecord(sha256=_sha256(stream), size=path.stat().st_size)


def _sha256(stream: Any) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
