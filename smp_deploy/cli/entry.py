"""The way into ``smp-deploy``: from the first import on, an interruption is one message."""

from __future__ import annotations

import signal
import sys
from typing import Any, NoReturn, cast

from smp_deploy.cli.errors import BAD_INPUT, exit_code_of


def main() -> NoReturn:
    """Entry point of the console script."""
    # A terminated process cleans up like an interrupted one: staged directories are removed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
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
