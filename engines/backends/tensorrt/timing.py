"""The timing cache: what TensorRT has measured of its kernels, kept in a file from build to build."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from engines.bundle.gate import read_file, write_file
from engines.bundle.limits import TIMING_CACHE_BYTES
from engines.errors import InputError, OutputError


def check_timing_cache(path: Path) -> None:
    """Raise :class:`OutputError` unless the file can be written: said before the build, not after it."""
    if path.is_dir():
        raise OutputError(f"the timing cache {path} is a directory; name a file")
    if path.exists() and not path.is_file():
        raise OutputError(f"the timing cache {path} is a pipe or a device; name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(f"cannot write the timing cache {path}: {error.strerror}") from error


def load_timing_cache(settings: Any, path: Path) -> None:
    """Give the builder the file's measurements; without the file, an empty cache to fill.

    Raises :class:`InputError` for a file that this TensorRT cannot use on this GPU. The file stays as it is: it may
    be good for another one.
    """
    content = timing_cache_content(path) if path.exists() else b""
    empty = settings.create_timing_cache(b"")
    cache = settings.create_timing_cache(content) if content else empty
    # TensorRT gives nothing, or an empty cache, for content that it cannot read.
    readable = cache is not None and not (
        content and content != bytes(empty.serialize()) and bytes(cache.serialize()) == bytes(empty.serialize())
    )
    if not readable or not settings.set_timing_cache(cache, False):
        raise InputError(
            f"the timing cache {path} ({len(content)} bytes) is damaged or of another TensorRT or GPU; it was left "
            "as it is: delete it, or name another file"
        )


def timing_cache_content(path: Path) -> bytes:
    """The file's bytes. Raises :class:`InputError` where it is not there, or is no file of this kind."""
    try:
        return read_file(path, TIMING_CACHE_BYTES)
    except OSError as error:
        raise InputError(f"cannot read the timing cache {path}: {error.strerror}") from error


def add_to_timing_cache(settings: Any, path: Path) -> None:
    """Write what the file holds together with the builder's measurements, in one step.

    Raises :class:`InputError` for a file that is of another TensorRT, and :class:`OutputError`.
    """
    cache = settings.create_timing_cache(timing_cache_content(path) if path.exists() else b"")
    if cache is None or not cache.combine(settings.get_timing_cache(), False):
        raise InputError(f"the timing cache {path} is damaged or of another TensorRT or GPU; it was left as it is")
    write_file(path, bytes(cache.serialize()))


def save_timing_cache(settings: Any, path: Path) -> None:
    """Write the builder's measurements, in one step. Raises :class:`OutputError`."""
    cache = settings.get_timing_cache()
    write_file(path, bytes(cache.serialize()))
