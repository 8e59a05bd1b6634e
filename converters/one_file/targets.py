"""Where a packed file and the JSON file beside it may be written."""

from __future__ import annotations

from pathlib import Path

from converters.one_file.record import document_from_json
from engines.bundle.bundle import Bundle
from engines.bundle.gate import Folder, read_file
from engines.bundle.staging import there_already
from engines.errors import InputError, OutputError

SUFFIX = ".onnx"
_LARGEST_DOCUMENT = 8 * 2**20


def document_path(path: Path) -> Path:
    """The JSON file of a packed file."""
    return path.with_suffix(".json")


def check_targets(bundle: Bundle, path: Path, *, replace: bool) -> None:
    """Raise :class:`OutputError` unless both files may be written: said before the work, not after it.

    What stands there is given up only with ``replace``, and only if it is of the kind that is written: a file named
    ``.onnx``, and a description of a packed file.
    """
    if path.suffix.lower() != SUFFIX or "\0" in str(path):
        raise OutputError(f"a packed file is named {SUFFIX}; received {path}")
    beside = document_path(path)
    for target in (path, beside):
        if bundle.holds(target):
            raise OutputError(f"{target} is a file of the bundle {bundle.path}; choose another place")
        if (target.exists() or target.is_symlink()) and not replace:
            raise there_already(target)
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is no file, so it is not replaced; choose another place")
    if beside.exists() and not _describes(beside):
        raise OutputError(
            f"{beside} is there and describes no packed file, so it is not replaced; choose another place"
        )
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {path}: there is no folder {path.parent}")
    try:
        Folder(path.parent).check_writable()
    except OSError as error:
        raise OutputError(f"cannot write to {path.parent}: {error.strerror}") from error


def _describes(path: Path) -> bool:
    try:
        document_from_json(read_file(path, _LARGEST_DOCUMENT), path.name)
    except (InputError, OSError):
        return False
    return True
