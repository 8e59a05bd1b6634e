"""The one table from exceptions to exit codes and one-line messages.

0 good, 1 a check failed, 2 bad input or usage, 3 the environment lacks something.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import TypeAlias

import click

from engines.errors import CheckFailed, InputError, MachineError

CHECK_FAILED = 1
BAD_INPUT = 2
MACHINE_LACKS = 3

_TABLE: tuple[tuple[type[BaseException], int], ...] = (
    (CheckFailed, CHECK_FAILED),
    (InputError, BAD_INPUT),
    (MachineError, MACHINE_LACKS),
    (OSError, BAD_INPUT),
    (MemoryError, MACHINE_LACKS),
    (KeyboardInterrupt, BAD_INPUT),
    (click.Abort, BAD_INPUT),
)


Command: TypeAlias = Callable[[], int]


def exit_code_of(command: Command) -> int:
    """Run ``command``; a user's mistake becomes one line on stderr and its exit code.

    Anything that is not in the table is a defect of this program and keeps its traceback.
    """
    try:
        return command()
    except tuple(kind for kind, _ in _TABLE) as error:
        print(f"smp-deploy: {_message(error)}", file=sys.stderr)
        return next(code for kind, code in _TABLE if isinstance(error, kind))


def _message(error: BaseException) -> str:
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        return "interrupted; nothing was left half-written"
    if isinstance(error, MemoryError):
        return f"this machine's memory does not suffice{f': {error}' if str(error) else ''}"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        hint = "; free some space or choose another place" if error.errno == errno.ENOSPC else ""
        return f"{where}{error.strerror or error}{hint}"
    return str(error)
