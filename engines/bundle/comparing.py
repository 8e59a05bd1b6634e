"""Engines of bundles side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engines.bundle.bundle import Bundle
from engines.bundle.manifest import EngineRecord
from engines.bundle.records import (
    BuildComparison,
    BuildRecord,
    build_record_from_file,
    compared_builds,
    record_from_json,
)
from engines.errors import InputError


@dataclass(frozen=True)
class EngineComparison:
    """An engine of a bundle, and what it was compared with."""

    engine: str
    """Name of its file."""
    other: str
    """Path of the other's bundle and name, or of its record."""
    builds: BuildComparison


def compared_engines(bundle: Bundle, other: str | Path, engine: str | None = None) -> list[EngineComparison]:
    """Compare a bundle's engines with those of another bundle for the same use, or one of them with a build record.

    Args:
        bundle: an open bundle.
        other: path of a bundle, whose files are then verified, or of a build record, which may be this bundle's own.
        engine: which of the bundle's engines, by its file's name; by default all that have a counterpart.

    Raises:
        InputError: there is no such engine, no counterpart, or more than one that a record may be of.
        BundleError: the other bundle or record is absent or damaged.
    """
    wanted = _wanted(bundle, engine)
    if not Path(other).is_dir():
        record = build_record_from_file(other)
        held = _of_the_same_use(bundle, wanted, record, other)
        return [EngineComparison(held.engine, str(other), compared_builds(build_record_of(bundle, held), record))]
    theirs = Bundle.open(other)
    by_use = {held.use: held for held in theirs.engines}
    pairs = [(held, by_use[held.use]) for held in wanted if held.use in by_use]
    if not pairs:
        raise InputError(
            f"{other} has no engine for the same use: it has {_uses(theirs.engines)}; {bundle.path} has "
            f"{_uses(wanted)}. A build record of one can be compared with any: name its file"
        )
    return [
        EngineComparison(
            mine.engine,
            f"{other}/{its.engine}",
            compared_builds(build_record_of(bundle, mine), build_record_of(theirs, its)),
        )
        for mine, its in pairs
    ]


def build_record_of(bundle: Bundle, engine: EngineRecord) -> BuildRecord:
    """The build record of an engine of a bundle. Raises :class:`BundleError`."""
    return record_from_json(bundle.content(engine.record), BuildRecord, engine.record)


def _wanted(bundle: Bundle, engine: str | None) -> list[EngineRecord]:
    engines = bundle.engines
    if engine is None:
        found = engines
    else:
        found = [held for held in engines if engine in (held.engine, PurePosixPath(held.engine).name)]
    if not found:
        what = "no engine" if engine is None else f"no engine {engine!r}"
        raise InputError(f"{bundle.path} has {what} (it has: {_names(engines)})")
    return found


def _of_the_same_use(bundle: Bundle, wanted: list[EngineRecord], record: BuildRecord, name: str | Path) -> EngineRecord:
    """The one engine that a record may be compared with."""
    if len(wanted) == 1:
        return wanted[0]
    use = record.backend, record.precision, record.sub_batch
    found = [held for held in wanted if (held.backend, held.precision, held.schedule.sub_batch) == use]
    if len(found) != 1:
        raise InputError(
            f"{name} may be compared with several engines: name one with engine= (it has: {_names(wanted)})"
        )
    return found[0]


def _names(engines: list[EngineRecord]) -> str:
    return ", ".join(held.engine for held in engines) or "none"


def _uses(engines: list[EngineRecord]) -> str:
    return "; ".join(f"{held.backend} {held.precision.value}, {held.schedule}" for held in engines) or "none"
