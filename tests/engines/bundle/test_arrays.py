"""Arrays of others: what is expected is read, all else is refused before it takes memory."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engines.bundle.arrays import ArrayForm, npy_from_bytes, npz_from_bytes, overlays_from_npz
from engines.errors import BundleError
from smp_deploy.benchmarking.peak_memory import peak_of

MIB = 2**20
FRAME = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize("array", [FRAME, np.asfortranarray(FRAME), FRAME[::-1]], ids=["C", "Fortran", "a view"])
def test_what_numpy_writes_is_read(array: np.ndarray) -> None:
    read = npy_from_bytes(npy(array), "|u1", array.shape)
    np.testing.assert_array_equal(read, array)
    assert read.flags.writeable
    assert read.flags.c_contiguous
    logits = np.random.default_rng(1).normal(size=(5, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(npy_from_bytes(npy(logits), "<f4", (5, 2, 3)), logits)
    scalar = np.array([7], np.int64)
    np.testing.assert_array_equal(npy_from_bytes(npy(scalar), "<i8", (1,)), scalar)


def with_header(header: bytes, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy(FRAME[:5]), "frame.npy is |u1 of (5, 8, 3); expected |u1 of (6, 8, 3)"),
        (npy(FRAME.astype(np.int8)), "frame.npy is |i1 of (6, 8, 3); expected |u1 of (6, 8, 3)"),
        (npy(FRAME)[:-1], "frame.npy has 143 bytes of an array of 144"),
        (npy(FRAME) + b"?", "frame.npy has 145 bytes of an array of 144"),
        (
            with_header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000, 3), }\n"),
            "frame.npy is |u1 of (1000000, 1000000, 3); expected |u1 of (6, 8, 3)",
        ),
        (npy(np.array([{}], object)), "frame.npy is no array that numpy writes; expected |u1 of (6, 8, 3)"),
        (with_header(b"(" * 60000), "frame.npy is no array that numpy writes; expected |u1 of (6, 8, 3)"),
        (with_header(b" " * 70000, version=b"\x02\x00"), "frame.npy is no array that numpy writes; expected"),
        (b"", "frame.npy is no array that numpy writes; expected |u1 of (6, 8, 3)"),
        (b"PK\x03\x04", "frame.npy is no array that numpy writes; expected |u1 of (6, 8, 3)"),
    ],
)
def test_other_arrays_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=re.escape(message)):
        npy_from_bytes(content, "|u1", (6, 8, 3), "frame.npy")


def overlays(count: int = 1, **changed: np.ndarray) -> dict[str, np.ndarray]:
    labels = FRAME[..., 0].astype(np.int64)
    found = {}
    for index in range(count):
        kinds = {"image": FRAME, "expected": labels, "actual": labels.astype(np.uint8), "ties": labels > 3}
        found |= {f"{kind}-{index}": array for kind, array in kinds.items()}
    return found | changed


def test_overlays_are_read_in_their_order() -> None:
    wanted = overlays(2)
    (first, second) = overlays_from_npz(npz(**wanted), (6, 8), 2, "validation.npz")
    for kind, array in zip(("image", "expected", "actual", "ties"), first, strict=True):
        np.testing.assert_array_equal(array, wanted[f"{kind}-0"])
        assert array.dtype == wanted[f"{kind}-0"].dtype
    assert len(second) == 4
    assert overlays_from_npz(npz(**wanted), (6, 8), 0, "validation.npz") == []


def written(write: Callable[[zipfile.ZipFile], Any]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        write(archive)
    return stream.getvalue()


def twice(archive: zipfile.ZipFile) -> None:
    for name, array in overlays().items():
        archive.writestr(f"{name}.npy", npy(array))
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("ties-0.npy", npy(FRAME))


def packed_otherwise(archive: zipfile.ZipFile) -> None:
    for name, array in overlays().items():
        archive.writestr(f"{name}.npy", npy(array), zipfile.ZIP_LZMA)


def empty_ones(archive: zipfile.ZipFile) -> None:
    for index in range(300):
        archive.writestr(f"{index}.npy", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            npz(**overlays(**{"ties-0": FRAME[..., 0]})),
            "v.npz: ties-0 is |u1 of (6, 8); expected |b1 of at most (6, 8)",
        ),
        (npz(**overlays(**{"image-0": FRAME[:1]})), "v.npz: the arrays of the overlay 0 differ in their size"),
        (npz(**overlays(**{"actual-0": FRAME[..., 0] / 2})), "v.npz: actual-0 is <f8 of (6, 8); expected |u1 or <u2"),
        (npz(**{"image-0": FRAME}), "v.npz has no 'expected-0'"),
        (written(twice), "v.npz lists 'ties-0.npy' twice"),
        (written(packed_otherwise), "v.npz: image-0 is encrypted, or packed as numpy packs none"),
        (written(empty_ones), "v.npz lists 300 arrays, where up to 256 are read"),
        (npz(**overlays())[:-30], "v.npz cannot be read: "),
        (b"", "v.npz cannot be read: File is not a zip file"),
    ],
)
def test_other_archives_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=re.escape(message)):
        overlays_from_npz(content, (6, 8), 1, "v.npz")


def test_an_array_that_ends_early_is_refused() -> None:
    content = bytearray(npz(**overlays()))
    # The central directory says more bytes than there are.
    at = content.find(b"PK\x01\x02")
    size = struct.unpack_from("<I", content, at + 24)[0]
    struct.pack_into("<I", content, at + 24, size + 10)
    with pytest.raises(BundleError, match=r"v\.npz: image-0 has 154 bytes of an array of 144"):
        overlays_from_npz(bytes(content), (6, 8), 1, "v.npz")


def test_too_many_overlays_and_too_much_memory_are_refused() -> None:
    with pytest.raises(BundleError, match=r"v\.npz is said to hold 1000000 overlays, where up to 16 are read"):
        overlays_from_npz(npz(**overlays()), (6, 8), 1_000_000, "v.npz")
    # Each of them would pass alone.
    form = ArrayForm(("|u1",), (200 * MIB,))
    packed = npz(**{f"a{index}": np.zeros(200 * MIB, np.uint8) for index in range(2)})
    with pytest.raises(BundleError, match=r"v\.npz: a1 takes 209715200 bytes, more than is left of 402653184"):
        npz_from_bytes(packed, {f"a{index}": form for index in range(2)}, "v.npz")


def refused_bomb() -> str:
    """An archive of 0.4 MiB that unpacks to 400 MiB; what is said of it. In a process of its own."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("image-0.npy", "w") as member:
        member.write(npy(np.zeros((6, 8, 3), np.uint8)))
        for _ in range(400):
            member.write(bytes(MIB))
    try:
        overlays_from_npz(stream.getvalue(), (6, 8), 1, "v.npz")
    except BundleError as error:
        return str(error)
    return ""


def test_a_bomb_is_not_unpacked() -> None:
    peak = peak_of("tests.engines.bundle.test_arrays:refused_bomb", timeout_s=120)
    assert peak.returned == f"v.npz: image-0 has {144 + 400 * MIB} bytes of an array of 144"
    assert peak.work_bytes < 150 * MIB
