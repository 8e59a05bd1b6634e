"""Option types and options that several commands share."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from engines.phases import Size

_Function = TypeVar("_Function", bound=Callable[..., Any])


class SizeType(click.ParamType):
    """``HEIGHTxWIDTH`` in pixels."""

    name = "HxW"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        """``"1024x2048"`` -> ``(1024, 2048)``."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", str(value).strip())
        if match is None:
            self.fail(f"a size is HEIGHTxWIDTH in pixels, 1024x2048 for example; received {value!r}", param, ctx)
        return int(match[1]), int(match[2])


def bundle_argument(function: _Function) -> _Function:
    """The bundle directory, as the first argument."""
    return click.argument("bundle", type=click.Path(path_type=Path))(function)


def json_option(function: _Function) -> _Function:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(function)
