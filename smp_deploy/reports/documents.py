"""Reading the record of a validation, and the arrays that its pictures are made from."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import msgspec
from numpy.typing import NDArray

from engines.bundle.arrays import overlays_from_npz
from engines.bundle.bundle import REPORTS, Bundle
from engines.bundle.records import ARRAYS, VALIDATION, VALIDATION_VERSION, Validation, record_from_json
from engines.errors import BundleError, InputError

_ANEW = "run smp-deploy validate anew"
_PROOF = re.compile(r"validation-([a-z-]+)\.json")


class _Version(msgspec.Struct):
    record_version: Any = None


def stored(bundle: Bundle) -> Validation:
    """The bundle's last validation.

    Raises :class:`InputError` when there is none, and :class:`BundleError` for one that cannot be read, is of another
    version or contradicts itself.
    """
    held = _validation(bundle, VALIDATION)
    if held is None:
        raise InputError(f"{bundle.path} has not been validated; run smp-deploy validate {bundle.path} first")
    return held


def stored_proofs(bundle: Bundle) -> dict[str, Validation]:
    """By backend: its own proof of the bundle on a target, of those that can be read."""
    found = {}
    for name in bundle.reports():
        if match := _PROOF.fullmatch(name):
            with suppress(BundleError):
                held = _validation(bundle, name)
                if held is not None:
                    found[match[1]] = held
    return found


def _validation(bundle: Bundle, name: str) -> Validation | None:
    path = bundle.path / REPORTS / name
    try:
        content = bundle.report(name)
        if content is None:
            return None
        found = record_from_json(content, _Version, path).record_version
        if found == VALIDATION_VERSION:
            return record_from_json(content, Validation, path)
    except BundleError as error:
        raise BundleError(f"{error}; {_ANEW}") from error
    raise BundleError(f"{path} has record version {found}, this smp-deploy reads {VALIDATION_VERSION}; {_ANEW}")


def stored_overlays(bundle: Bundle, count: int) -> list[tuple[NDArray[Any], ...]]:
    """The arrays of the first ``count`` overlays; none where they are not kept.

    Of each the frame ``(H, W, 3)`` uint8, labels in fp32 and in the other precision ``(H, W)`` integers, and where
    they are ties ``(H, W)`` bool. Raises :class:`BundleError` for a file that cannot be read.
    """
    path, content = bundle.path / REPORTS / ARRAYS, bundle.report(ARRAYS)
    if content is None:
        return []
    try:
        overlays = overlays_from_npz(content, bundle.manifest.input.size, count, path)
        classes = len(bundle.manifest.classes)
        for _, *labels, _ in overlays:
            if any(held.size and not 0 <= held.min() <= held.max() < max(256, classes) for held in labels):
                raise BundleError(f"{path} has labels that are none of the {classes} classes")
        return overlays
    except BundleError as error:
        raise BundleError(f"{error}; {_ANEW}") from error
