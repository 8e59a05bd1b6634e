"""Where a page or a picture may be written, and its writing."""

from __future__ import annotations

from pathlib import Path

from engines.bundle.bundle import Bundle
from engines.bundle.gate import write_file
from engines.errors import OutputError


def check_file_target(bundle: Bundle, target: Path, suffix: str) -> None:
    """Raise :class:`OutputError` unless a file may be written at ``target``.

    What stands there is given up only if its name ends in ``suffix``, ``".html"`` say, and it is no part of the
    bundle: it is then of the kind that is written, and most likely an older one.
    """
    if bundle.holds(target):
        raise OutputError(f"{target} is a file of the bundle {bundle.path}; choose another place")
    if target.exists() and target.suffix.lower() != suffix:
        raise OutputError(f"{target} is there and is no {suffix} file, so it is not replaced; choose another place")


def write_to_target(target: Path, content: bytes, suffix: str) -> None:
    """Write a file that :func:`check_file_target` allowed. What came there since is replaced by the same rule.

    Raises :class:`OutputError`.
    """
    write_file(target, content, replace=target.suffix.lower() == suffix)
