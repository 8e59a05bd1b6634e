"""Pickles of ``torch.save``, opened without running any code.

PyTorch's own reader for weights alone refuses whatever is no tensor. What people keep beside the weights, a namespace
of options or the number of an epoch as a numpy scalar, is harmless, and nobody here needs it: its types are known by
name, and an inert object stands for each. Every other type is refused by its name.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch

from engines.errors import CheckpointError


class Beside:
    """Stands for a value beside the weights: takes whatever a pickle says of it, and does and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Beside:
        """The same, whatever it is called with."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _dictionary(*_: Any) -> dict[Any, Any]:
    """Of ``collections.defaultdict``, without what makes the defaults: its content follows."""
    return {}


def _sequence(*_: Any) -> list[Any]:
    """Of ``collections.deque``: its content follows."""
    return []


_HARMLESS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(
        f"{module}.{kind}"
        # From Python 3.13 on they call themselves members of the second.
        for module in ("pathlib", "pathlib._local")
        for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
    *(f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta", "timezone")),
    "decimal.Decimal",
    "fractions.Fraction",
    "uuid.UUID",
    "uuid.SafeUUID",
    *(f"builtins.{kind}" for kind in ("bool", "dict", "float", "frozenset", "int", "list", "range", "slice", "str")),
    *(
        f"numpy.{module}.{name}"
        for module in ("core", "_core")
        for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    ),
    "numpy.dtype",
    "numpy.ndarray",
    *(
        f"numpy.{kind}"
        for kind in (
            "bool_", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
            "float64",
        )
    ),
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    *(
        f"omegaconf.nodes.{kind}"
        for kind in ("AnyNode", "BooleanNode", "EnumNode", "FloatNode", "IntegerNode", "PathNode", "StringNode")
    ),
    "typing.Any",
)  # fmt: skip
_STANDING_FOR: list[Any] = [
    *((Beside, name) for name in _HARMLESS),
    (_dictionary, "collections.defaultdict"),
    (_sequence, "collections.deque"),
]
_GLOBAL = re.compile(r"GLOBAL ([\w.<>]+)")


def unpickled(path: Path, stream: BinaryIO) -> Any:
    """What ``torch.save`` wrote, with :class:`Beside` for what is harmless and no tensor. No code of the file runs.

    Raises :class:`CheckpointError` for damage, and for anything that is neither.
    """
    try:
        check_archive(path, stream)
        # torch's list of what may be in a file is the process's, and so is this addition, for the moment.
        with warnings.catch_warnings(), torch.serialization.safe_globals(_STANDING_FOR):
            # Of protocols that other tools write; what cannot be read is an error below.
            warnings.simplefilter("ignore")
            return torch.load(stream, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        named = _GLOBAL.search(str(error))
        held = f" ({named[1]})" if named else ""
        raise CheckpointError(
            f"{path} holds more than weights{held}, or is no checkpoint, and was not opened, since that could run "
            "code; save its state_dict alone, best as .safetensors"
        ) from error
    except Exception as error:
        # torch.load meets damage in a dozen ways, which all mean the same.
        raise CheckpointError(f"{path} is truncated or no PyTorch checkpoint") from error


def check_archive(path: Path, stream: BinaryIO) -> None:
    """Raise :class:`CheckpointError` for an archive that unpacks to more than the file is long.

    ``torch.save`` compresses nothing, so one that does was made to take memory.
    """
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > stream.seek(0, 2):
            raise CheckpointError(
                f"{path} unpacks to {unpacked} bytes, more than the file has: torch.save wrote no such"
            )
    stream.seek(0)
