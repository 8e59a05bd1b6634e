"""Roll-back: the newest version of every product that was accepted, remembered by who verifies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from engines.bundle.gate import Folder, read_file, write_file
from engines.errors import InputError, OutputError, UntrustedBundle
from engines.trust.documents import document_from_json
from engines.trust.verifying import Release

_MOST_BYTES = 1 << 20


class _Remembered(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    versions_format: Literal[1] = 1
    signers: dict[str, dict[str, Annotated[int, msgspec.Meta(ge=0)]]] = {}
    """By the policy's name of the signer and by product; a signer with a new key goes on with the same counts."""


@dataclass(frozen=True)
class Versions:
    """A file of counters that only grow. Where it is not there, nothing is remembered yet; its folder must be there."""

    path: Path

    def check(self, signer: str, release: Release, where: str) -> None:
        """Raise :class:`UntrustedBundle` for a version that is older than the newest; nothing is written."""
        newest = self._read().signers.get(signer, {}).get(release.product, 0)
        if release.version < newest:
            raise UntrustedBundle(
                f"{where} is of version {release.version} of {release.product!r}, and {self.path} remembers "
                f"version {newest}: an older one is not taken"
            )

    def remember(self, signer: str, release: Release, where: str) -> None:
        """Write down that a version was accepted, where it is newer than the newest. Raises as :meth:`check`.

        Processes that do so wait for one another, so no count is lost. Raises :class:`OutputError`.
        """
        if self._read().signers.get(signer, {}).get(release.product, 0) == release.version:
            # What is known already needs no right to write.
            return
        try:
            folder = Folder(self.path.parent)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}") from error
        with folder.locked():
            self.check(signer, release, where)
            held = self._read()
            products = {**held.signers.get(signer, {}), release.product: release.version}
            document = msgspec.structs.replace(held, signers={**held.signers, signer: products})
            write_file(self.path, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")

    def _read(self) -> _Remembered:
        try:
            content = read_file(self.path, _MOST_BYTES)
        except FileNotFoundError as error:
            # A partition that is not mounted looks like this, and must not pass for a first start.
            if self.path.is_symlink() or not self.path.parent.is_dir():
                what = "it leads to a file" if self.path.is_symlink() else "it lies in a folder"
                raise InputError(f"{self.path} cannot be used: {what} that is not there") from error
            return _Remembered()
        return document_from_json(content, _Remembered, str(self.path), InputError)
