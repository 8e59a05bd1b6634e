"""The way into ``smp-deploy``: from the first import on, whatever ends it is one message and an exit code.

SIGTERM and SIGHUP end the process at once, where the system's own reaction is heard inside a runtime, too. Only where
something is half written they interrupt as Ctrl-C does: see :mod:`engines.bundle.interruptions`.
"""

from __future__ import annotations

import io
import sys
from typing import Any, NoReturn, cast

from smp_deploy.cli.errors import BAD_INPUT, exit_code_of
from smp_deploy.cli.streams import failure_of_output, open_streams


def main() -> NoReturn:
    """Entry point of the console script."""
    code = exit_code_of(_run, "".join(sys.argv[1:2]))
    # The verdict of a command stands, also where it could not be written down.
    unsaid = exit_code_of(_said)
    sys.exit(code or unsaid)


def _said() -> int:
    failure = failure_of_output()
    if failure is not None:
        raise OSError(failure.errno, failure.strerror, "stdout")
    return 0


def _run() -> int:
    open_streams()
    # Importing typer takes a tenth of a second, in which Ctrl-C may come.
    import typer

    from smp_deploy.cli.app import invoke

    try:
        invoke()
    except typer.TyperException as error:
        # Words that no command understands: typer's message, with the usage of the command that they were meant for.
        from smp_deploy.cli.console import note

        usage = io.StringIO()
        cast(Any, error).show(usage)
        for line in usage.getvalue().rstrip("\n").split("\n"):
            note(line)
        return BAD_INPUT
    return 0
