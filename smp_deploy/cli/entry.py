"""The way into ``smp-deploy``: from the first import on, an interruption is one message."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

import click

from smp_deploy.cli.errors import BAD_INPUT, exit_code_of


def main() -> NoReturn:
    """Entry point of the console script."""
    # A terminated process cleans up like an interrupted one: staged directories are removed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(exit_code_of(_run))


def _run() -> int:
    # Importing the commands takes a part of a second, in which Ctrl-C may come.
    from smp_deploy.cli.app import app

    try:
        outcome = app(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    return outcome if isinstance(outcome, int) else 0
