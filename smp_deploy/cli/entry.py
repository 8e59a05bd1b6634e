"""The way into ``smp-deploy``: from the first import on, an interruption is one message.

SIGTERM and SIGHUP end the process at once, where the system's own reaction is heard inside a runtime, too. Only where
something is half written they interrupt as Ctrl-C does: see :mod:`engines.bundle.interruptions`.
"""

from __future__ import annotations

import sys
from typing import Any, NoReturn, cast

from smp_deploy.cli.errors import BAD_INPUT, exit_code_of


def main() -> NoReturn:
    """Entry point of the console script."""
    sys.exit(exit_code_of(_run, "".join(sys.argv[1:2])))


def _run() -> int:
    # Importing typer takes a tenth of a second, in which Ctrl-C may come.
    import typer

    from smp_deploy.cli.app import invoke

    try:
        invoke()
    except typer.TyperException as error:
        # Words that no command understands: typer's message, with the usage of the command that they were meant for.
        cast(Any, error).show()
        return BAD_INPUT
    return 0
