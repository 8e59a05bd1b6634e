"""Reading the record of a validation, and the arrays that its pictures are made from."""

from __future__ import annotations

import zipfile
import zlib
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engines.bundle.bundle import Bundle
from engines.bundle.records import ARRAYS, OVERLAY_ARRAYS, VALIDATION, VALIDATION_VERSION, Validation, record_from_json
from engines.errors import BundleError, InputError

_ANEW = "run smp-deploy validate anew"


class _Version(msgspec.Struct):
    record_version: Any = None


def stored(bundle: Bundle) -> Validation:
    """The bundle's last validation.

    Raises :class:`InputError` when there is none, and :class:`BundleError` for one that cannot be read, is of another
    version or contradicts itself.
    """
    path = bundle.path / "reports" / VALIDATION
    try:
        content = path.read_bytes()
        found = record_from_json(content, _Version, path).record_version
        if found == VALIDATION_VERSION:
            return record_from_json(content, Validation, path)
    except FileNotFoundError as error:
        raise InputError(
            f"{bundle.path} has not been validated; run smp-deploy validate {bundle.path} first"
        ) from error
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}; {_ANEW}") from error
    except BundleError as error:
        raise BundleError(f"{error}; {_ANEW}") from error
    raise BundleError(f"{path} has record version {found}, this smp-deploy reads {VALIDATION_VERSION}; {_ANEW}")


def stored_overlays(bundle: Bundle, count: int) -> list[tuple[NDArray[Any], ...]]:
    """The arrays of the first ``count`` overlays; none where they are not kept.

    Of each the frame ``(H, W, 3)`` uint8, labels in fp32 and in the other precision ``(H, W)`` integers, and where
    they are ties ``(H, W)`` bool. Raises :class:`BundleError` for a file that cannot be read.
    """
    path = bundle.path / "reports" / ARRAYS
    if not path.exists():
        return []
    try:
        with path.open("rb") as stream, np.lib.npyio.NpzFile(stream) as arrays:
            return [tuple(arrays[f"{kind}-{index}"] for kind in OVERLAY_ARRAYS) for index in range(count)]
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # numpy and zipfile report damage as any of these.
        raise BundleError(f"{path} cannot be read: {error}; {_ANEW}") from error
