"""How a runtime that is missing, broken, or out of memory is told apart, whichever it is."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from engines.errors import BackendError, MissingDependency, OutOfMemory


def imported_runtime(module: str, extra: str) -> Any:
    """A runtime's module.

    Raises :class:`MissingDependency`, or :class:`BackendError` where it is there but broken.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise BackendError(f"{module} is installed but cannot be loaded: {error}") from error
        raise MissingDependency(module, extra) from error
    except (ImportError, OSError) as error:
        raise BackendError(f"{module} is installed but cannot be loaded: {error}") from error


def failure_of_runtime(said: str, error: Exception, out_of_memory: Iterable[str]) -> BackendError:
    """The error to raise for one of a runtime: :class:`OutOfMemory` where it speaks of memory.

    Args:
        said: the message.
        error: what the runtime raised.
        out_of_memory: what its allocators say, in lower case.
    """
    short = isinstance(error, MemoryError) or any(words in str(error).lower() for words in out_of_memory)
    return OutOfMemory(f"{said} (the memory does not suffice)") if short else BackendError(said)
