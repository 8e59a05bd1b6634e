"""Option types and options that several commands share."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from engines.backends import BACKENDS
from engines.schedules.phases import Size
from engines.schedules.schedule import Lowering, Precision

_Function = TypeVar("_Function", bound=Callable[..., Any])


BACKEND_CHOICE = click.Choice([backend.name for backend in BACKENDS])
"""For ``--backend``."""


class SizeType(click.ParamType[Size]):
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


class MemoryType(click.ParamType[int]):
    """Bytes, with a unit of KiB, MiB or GiB."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """``"512MiB"`` -> ``536870912``."""
        if isinstance(value, int):
            return value
        text = str(value).strip()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            self.fail(
                f"a size carries its unit, {text}MiB for example; a bare number is MiB to trtexec and bytes to other "
                f"tools; received {text!r}",
                param,
                ctx,
            )
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,3})?)([KMG]iB)", text)
        size = float(match[1]) * _UNITS[match[2]] if match else 0.0
        if not size or size % 1:
            self.fail(f"a size is a number with KiB, MiB or GiB, 512MiB for example; received {text!r}", param, ctx)
        return int(size)


class FiniteRange(click.FloatRange):
    """A range of numbers; NaN and the infinities are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """``"0.5"`` -> ``0.5``."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def bundle_argument(function: _Function) -> _Function:
    """The bundle directory, as the first argument."""
    return click.argument("bundle", type=click.Path(path_type=Path))(function)


def json_option(function: _Function) -> _Function:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")(function)


def images_option(function: _Function) -> _Function:
    """``--images``, several times."""
    return click.option(
        "--images",
        multiple=True,
        metavar="PATH",
        help="An image file, a folder of images or a pattern; may be given several times.",
    )(function)


def force_option(function: _Function) -> _Function:
    """``--force``."""
    return click.option("--force", is_flag=True, help="Replace the bundle that stands at the output.")(function)


def precision_option(function: _Function) -> _Function:
    """``--precision``, one."""
    return click.option(
        "--precision",
        type=click.Choice([precision.value for precision in Precision]),
        default=Precision.FP32.value,
        show_default=True,
        help="Which of the bundle's trunks.",
    )(function)


def schedule_options(function: _Function) -> _Function:
    """``--levels``, ``--lowering`` and ``--sub-batch``: which of the bundle's schedules."""
    levels = click.option(
        "--levels",
        type=click.IntRange(0),
        help="Splits that a loop over their phases stands for; more take less memory.  [default: the bundle's, "
        "which repeats no work]",
    )
    lowering = click.option(
        "--lowering",
        type=click.Choice([lowering.value for lowering in Lowering]),
        help="How the splits inside the trunk are computed.  [default: the bundle's]",
    )
    sub_batch = click.option(
        "--sub-batch",
        type=click.IntRange(1),
        help="Phases at a time; more take more memory.  [default: 1]",
    )
    return levels(lowering(sub_batch(memory_option(function))))


def memory_option(function: _Function) -> _Function:
    """``--memory``."""
    return click.option(
        "--memory",
        type=MemoryType(),
        help="Choose the schedule: the least compute that fits; sizes carry KiB, MiB or GiB.",
    )(function)
