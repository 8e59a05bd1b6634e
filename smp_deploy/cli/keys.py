"""Private keys on the command line: the pass phrase comes from the environment or from the person at the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import typer

from engines.errors import PassPhraseNeeded

PASS_PHRASE = "SMP_DEPLOY_PASS_PHRASE"

_Result = TypeVar("_Result")


def with_pass_phrase(key: Path, use: Callable[[str | None], _Result]) -> _Result:
    """What ``use`` gives for the pass phrase of a key; asked for where the key needs one and none is there."""
    try:
        return use(os.environ.get(PASS_PHRASE))
    except PassPhraseNeeded as error:
        if not sys.stdin.isatty():
            raise PassPhraseNeeded(f"{key} is encrypted; give its pass phrase in {PASS_PHRASE}") from error
        return use(typer.prompt(f"Pass phrase of {key}", hide_input=True, err=True))
