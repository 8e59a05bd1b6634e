"""Whether a record speaks of the bundle that it lies in, as the bundle is now."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from engines.bundle.bundle import Bundle
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
    unseen: tuple[str, ...]
    """Files of engines that were added since: the record says nothing of them."""

    @property
    def words(self) -> str:
        """What a person should know of it; nothing where nothing changed."""
        names = f"{', '.join(self.changed[:3])}{f' and {len(self.changed) - 3} more' if len(self.changed) > 3 else ''}"
        if self.standing is Standing.FOREIGN:
            return f"the record is foreign: it is of another network ({names} differ); validate this bundle"
        if self.standing is Standing.STALE:
            return f"the record is stale: the bundle changed since ({names}); validate it again"
        if not self.unseen:
            return ""
        engines = sum(name.endswith(".json") for name in self.unseen)
        return f"{engines} engine{'s were' if engines > 1 else ' was'} built since, not proven here"


def compared(record: Validation, bundle: Bundle) -> Comparison:
    """A validation against the bundle as it is now.

    What was built since does not make it stale: it says nothing of that, and the words say so.
    """
    own = (record.network.source, record.network.parameters, record.frame, record.outputs)
    manifest = bundle.manifest
    same = own == (manifest.network.source, manifest.network.parameters, manifest.input.size, manifest.outputs)
    return _compared(record.files, bundle, same)


def of_digests(saw: Mapping[str, str], bundle: Bundle) -> Standing:
    """The standing of a record that names no more than the digests of what it saw."""
    return _compared(saw, bundle, same_network=True).standing


def _compared(saw: Mapping[str, str], bundle: Bundle, same_network: bool) -> Comparison:
    now = bundle.digests
    changed = tuple(sorted(name for name, digest in saw.items() if now.get(name) != digest))
    if not saw:
        # A record that is bound to nothing is of nothing.
        return Comparison(Standing.STALE, ("manifest.json",), ())
    if changed:
        return Comparison(Standing.STALE if same_network else Standing.FOREIGN, changed, ())
    return Comparison(Standing.CURRENT, (), tuple(sorted(now.keys() - saw.keys())))
