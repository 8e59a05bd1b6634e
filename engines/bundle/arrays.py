"""Arrays of others, from bytes: numpy's .npy and .npz, of forms that are known beforehand.

numpy believes a header of any size and shape and unpacks what an archive says. Here a header must be the one that
numpy writes for the array that is expected, and it is read before anything is unpacked.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.bundle.records import OVERLAY_ARRAYS
from engines.errors import BundleError
from engines.schedules.phases import Size

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '(?P<descr>[<|][a-z]\d{1,2})', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>(?:\d{1,18}, ?)*(?:\d{1,18})?)\), \} *\n"
)
_LONGEST_HEADER = 1024
"""Bytes; numpy writes 128 for a few dimensions."""
_MOST_UNPACKED = 384 << 20
"""Bytes of all arrays of an archive. A frame of 1024x2048 with its labels takes 40 MiB."""
_MOST_OVERLAYS = 16
"""Three times as many as a validation keeps."""
_INTEGERS = ("|u1", "<u2", "<i2", "<i4", "<i8")


@dataclass(frozen=True)
class ArrayForm:
    """What an array must be."""

    dtypes: tuple[str, ...]
    """As numpy writes them, ``"<f4"``: any of these."""
    shape: tuple[int, ...]
    at_most: bool = False
    """Whether each side may also be shorter."""

    def admits(self, other: ArrayForm) -> bool:
        """Whether an array of that form is one of this."""
        if other.dtypes[0] not in self.dtypes:
            return False
        if not self.at_most:
            return other.shape == self.shape
        sides = zip(other.shape, self.shape, strict=False)
        return len(other.shape) == len(self.shape) and all(1 <= side <= most for side, most in sides)

    def __str__(self) -> str:
        return f"{' or '.join(self.dtypes)} of {'at most ' if self.at_most else ''}{self.shape}"


def npy_from_bytes(content: bytes, dtype: str, shape: Sequence[int], name: object = "the array") -> NDArray[Any]:
    """The array of a .npy file: ``npy_from_bytes(content, "<f4", (classes, i, j), path)``.

    Args:
        content: the file's.
        dtype: as numpy writes it: ``"|u1"``, ``"<f4"``.
        shape: of the array.
        name: of the file, for the message.

    Raises :class:`BundleError` for anything but one array of this type and shape.
    """
    form = ArrayForm((dtype,), tuple(shape))
    start, found, fortran = _form(content[:_LONGEST_HEADER], form, name)
    if len(content) != start + _nbytes(found):
        raise BundleError(f"{name} has {len(content) - start} bytes of an array of {_nbytes(found)}")
    return _array(content, start, found, fortran=fortran)


def npz_from_bytes(
    content: bytes, forms: Mapping[str, ArrayForm], name: object = "the archive", *, most_members: int = 256
) -> dict[str, NDArray[Any]]:
    """The arrays of a .npz file that are asked for, by their names; the others stay packed.

    Args:
        content: the file's.
        forms: what each array must be.
        name: of the file, for the message.
        most_members: of the archive.

    Raises :class:`BundleError` for an archive that is damaged or encrypted, lists a name twice or more members, lacks
    an array or has it of another form, and for arrays that take more than 384 MiB together.
    """
    # Counted before they are listed: Python takes a kilobyte for each.
    if (members := content.count(b"PK\x01\x02")) > most_members:
        raise BundleError(f"{name} lists {members} arrays, where up to {most_members} are read")
    found, taken = {}, 0
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            listed = [member.filename for member in archive.infolist()]
            if twice := next((member for member in listed if listed.count(member) > 1), None):
                raise BundleError(f"{name} lists {twice!r} twice")
            for key, form in forms.items():
                if f"{key}.npy" not in listed:
                    raise BundleError(f"{name} has no {key!r}")
                array = _unpacked(
                    archive, archive.getinfo(f"{key}.npy"), form, f"{name}: {key}", _MOST_UNPACKED - taken
                )
                taken += array.nbytes
                found[key] = array
    except BundleError:
        raise
    except (OSError, EOFError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error) as error:
        # zipfile reports damage as any of these.
        raise BundleError(f"{name} cannot be read: {error}") from error
    return found


def overlays_from_npz(content: bytes, size: Size, count: int, name: object) -> list[tuple[NDArray[Any], ...]]:
    """The arrays of the first ``count`` overlays of a validation, in the order of OVERLAY_ARRAYS.

    Of each the frame ``(h, w, 3)`` uint8, labels in fp32 and in the other precision ``(h, w)`` integers, and where
    they are ties ``(h, w)`` bool: at most ``size``, since a large frame is compared at some of its pixels. Raises
    :class:`BundleError` as :func:`npz_from_bytes`, and where those of one overlay differ in their size.
    """
    if count > _MOST_OVERLAYS:
        raise BundleError(f"{name} is said to hold {count} overlays, where up to {_MOST_OVERLAYS} are read")
    labels = ArrayForm(_INTEGERS, size, at_most=True)
    kinds = {
        "image": ArrayForm(("|u1",), (*size, 3), at_most=True),
        "expected": labels,
        "actual": labels,
        "ties": ArrayForm(("|b1",), size, at_most=True),
    }
    forms = {f"{kind}-{index}": kinds[kind] for index in range(count) for kind in OVERLAY_ARRAYS}
    arrays = npz_from_bytes(content, forms, name)
    overlays = [tuple(arrays[f"{kind}-{index}"] for kind in OVERLAY_ARRAYS) for index in range(count)]
    for index, overlay in enumerate(overlays):
        if len({array.shape[:2] for array in overlay}) > 1 or overlay[0].shape[2:] != (3,):
            raise BundleError(f"{name}: the arrays of the overlay {index} differ in their size")
    return overlays


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, form: ArrayForm, name: str, most: int) -> NDArray[Any]:
    # Of the other compressions, Python unpacks a whole block however long it becomes.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
        raise BundleError(f"{name} is encrypted, or packed as numpy packs none")
    with archive.open(member) as stream:
        beginning = stream.read(_LONGEST_HEADER)
        start, found, fortran = _form(beginning, form, name)
        if member.file_size != start + _nbytes(found):
            raise BundleError(f"{name} has {member.file_size - start} bytes of an array of {_nbytes(found)}")
        if _nbytes(found) > most:
            raise BundleError(
                f"{name} takes {_nbytes(found)} bytes, more than is left of {_MOST_UNPACKED} for all arrays"
            )
        content = beginning + stream.read(member.file_size - len(beginning))
    if len(content) != member.file_size:
        raise BundleError(f"{name} is cut off")
    return _array(content, start, found, fortran=fortran)


def _form(beginning: bytes, wanted: ArrayForm, name: object) -> tuple[int, ArrayForm, bool]:
    """Where the data begin, the form by the header, and whether the first index runs fastest."""
    length = int.from_bytes(beginning[8:10], "little")
    header = _HEADER.fullmatch(beginning[10 : 10 + length])
    if not beginning.startswith(_MAGIC) or header is None:
        raise BundleError(f"{name} is no array that numpy writes; expected {wanted}")
    shape = tuple(int(side) for side in header["shape"].replace(b" ", b"").split(b",") if side)
    found = ArrayForm((header["descr"].decode(),), shape)
    if not wanted.admits(found):
        raise BundleError(f"{name} is {found}; expected {wanted}")
    return 10 + length, found, header["fortran"] == b"True"


def _nbytes(form: ArrayForm) -> int:
    return int(np.dtype(form.dtypes[0]).itemsize) * math.prod(form.shape)


def _array(content: bytes, start: int, form: ArrayForm, *, fortran: bool) -> NDArray[Any]:
    flat = np.frombuffer(content, form.dtypes[0], offset=start)
    # A copy, which may be written to and does not hold the file.
    return flat.reshape(form.shape, order="F" if fortran else "C").copy(order="C")
