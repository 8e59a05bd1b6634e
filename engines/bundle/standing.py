"""Whether a record speaks of the bundle that it lies in, as the bundle is now."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from engines.bundle.bundle import Bundle
from engines.bundle.names import MANIFEST_NAME
from engines.bundle.records import Validation


class Standing(enum.Enum):
    """What the bytes that a record saw are to those of the bundle."""

    CURRENT = "current"
    """They are the same."""
    STALE = "stale"
    """The bundle, or what the record is of in it, changed since."""
    FOREIGN = "foreign"
    """They are of another network."""


@dataclass(frozen=True)
class Comparison:
    """A record against a bundle."""

    standing: Standing
    changed: tuple[str, ...]
    """Files that the record saw and that are others now, or gone."""
    missed: tuple[str, ...]
    """Files that it did not see, of those that it speaks of: a record that is bound to nothing is of nothing."""
    unseen: tuple[str, ...]
    """Engines that were added since, by their file's name: the record says nothing of them."""

    @property
    def words(self) -> str:
        """What a person should know of it; nothing where nothing changed."""
        if self.standing is Standing.FOREIGN:
            return (
                f"the record is foreign: it is of another network ({_named(self.changed)} differ); validate this bundle"
            )
        if self.changed:
            return f"the record is stale: the bundle changed since ({_named(self.changed)}); validate it again"
        if self.missed:
            return f"the record is stale: it did not see all of the bundle ({_named(self.missed)}); validate it again"
        if not self.unseen:
            return ""
        engines = len(self.unseen)
        return f"{engines} engine{'s were' if engines > 1 else ' was'} built since, not proven here"


def _named(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def compared(record: Validation, bundle: Bundle) -> Comparison:
    """A validation against the bundle as it is now.

    What was built since does not make it stale: it says nothing of that, and the words say so.
    """
    own = (record.network.source, record.network.parameters, record.frame, record.outputs)
    manifest = bundle.manifest
    same = own == (manifest.network.source, manifest.network.parameters, manifest.input.size, manifest.outputs)
    return _compared(record.files, bundle.export_digests.keys(), bundle, same)


def of_digests(saw: Mapping[str, str], bundle: Bundle) -> Standing:
    """The standing of a record of a part of the bundle, that names no more than the digests of what it saw."""
    return _compared(saw, {MANIFEST_NAME}, bundle, same_network=True).standing


def _compared(saw: Mapping[str, str], needed: Collection[str], bundle: Bundle, same_network: bool) -> Comparison:
    """What a record saw against what is there; it must have seen all that is ``needed``."""
    now = bundle.digests
    changed = {name for name, digest in saw.items() if now.get(name) != digest}
    if changed:
        return Comparison(Standing.STALE if same_network else Standing.FOREIGN, tuple(sorted(changed)), (), ())
    if missed := sorted(set(needed) - saw.keys()):
        return Comparison(Standing.STALE, (), tuple(missed), ())
    unseen = (engine.engine for engine in bundle.engines if not saw.keys() >= set(engine.files))
    return Comparison(Standing.CURRENT, (), (), tuple(unseen))
