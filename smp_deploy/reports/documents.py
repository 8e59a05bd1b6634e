"""Reading the record of a validation, and the arrays that its pictures are made from."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
from numpy.typing import NDArray

from engines.bundle.arrays import overlays_from_npz
from engines.bundle.bundle import REPORTS, Bundle
from engines.bundle.documents import glance
from engines.bundle.limits import OVERLAY_BYTES, PROOF_BYTES, PROOFS_BYTES, VALIDATION_BYTES
from engines.bundle.records import ARRAYS, VALIDATION, VALIDATION_VERSION, Proven, Validation, record_from_json
from engines.errors import BundleError, InputError

_ANEW = "run smp-deploy validate anew"


class _Version(msgspec.Struct):
    """Of any record of a validation."""

    record_version: int


def stored(bundle: Bundle) -> Validation:
    """The bundle's last validation.

    Raises :class:`InputError` when there is none, and :class:`BundleError` for one that cannot be read, is of another
    version or contradicts itself.
    """
    content = _content(bundle, VALIDATION, VALIDATION_BYTES)
    if content is None:
        raise InputError(f"{bundle.path} has not been validated; run smp-deploy validate {bundle.path} first")
    return _validation(bundle, VALIDATION, content)


def stored_proofs(bundle: Bundle) -> dict[Proven, Validation]:
    """The proofs of the bundle on a target, of those that can be read.

    Raises :class:`BundleError` where there are more than are read: one that failed must not be passed over.
    """
    found, taken = {}, 0
    for name in bundle.reports():
        if (proven := Proven.of_file(name)) is None:
            continue
        with suppress(BundleError):
            content = _content(bundle, name, PROOF_BYTES) or b""
            taken += len(content)
            found[proven] = _validation(bundle, name, content)
        if taken > PROOFS_BYTES:
            raise BundleError(
                f"{bundle.path / REPORTS} holds proofs of more than {PROOFS_BYTES >> 20} MiB, the most that is read; "
                "remove some"
            )
    return found


def _content(bundle: Bundle, name: str, most: int) -> bytes | None:
    try:
        return bundle.report(name, most)
    except BundleError as error:
        raise BundleError(f"{error}; {_ANEW}") from error


def _validation(bundle: Bundle, name: str, content: bytes) -> Validation:
    path = bundle.path / REPORTS / name
    try:
        record = record_from_json(content, Validation, path)
        version = record.record_version
    except BundleError as error:
        version = getattr(glance(content, _Version), "record_version", VALIDATION_VERSION)
        if version == VALIDATION_VERSION:
            raise BundleError(f"{error}; {_ANEW}") from error
    if version != VALIDATION_VERSION:
        raise BundleError(f"{path} has record version {version}, this smp-deploy reads {VALIDATION_VERSION}; {_ANEW}")
    return record


def stored_overlays(bundle: Bundle, count: int) -> list[tuple[NDArray[Any], ...]]:
    """The arrays of the first ``count`` overlays; none where they are not kept.

    Of each the frame ``(H, W, 3)`` uint8, labels in fp32 and in the other precision ``(H, W)`` integers, and where
    they are ties ``(H, W)`` bool. Raises :class:`BundleError` for a file that cannot be read.
    """
    path, content = bundle.path / REPORTS / ARRAYS, _content(bundle, ARRAYS, OVERLAY_BYTES)
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
