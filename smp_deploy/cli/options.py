"""Arguments and options that several commands share, and what turns their text into values."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

import typer

from engines.backends import BACKENDS
from engines.devices.names import DeviceName
from engines.errors import InputError
from engines.planning.sizes import bytes_of_memory
from engines.schedules.schedule import Lowering, Precision

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from converters.densifying import Densification
    from engines.bundle.bundle import Bundle


UntilOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--until", metavar="MODULE", help="For --densify: the module behind which strides are kept.  [default: none]"
    ),
]
UpsamplingOption: TypeAlias = Annotated[
    Literal["kernel", "merge"] | None,
    typer.Option(
        "--upsampling",
        help="For --densify: what an interpolation becomes, merges and its own kernel, the mean over all shifts; or "
        "merges alone, which a loop can walk.",
    ),
]
MaxPoolOption: TypeAlias = Annotated[
    Literal["dense", "split"] | None,
    typer.Option(
        "--max-pool",
        help="For --densify: what a strided max pool becomes, the same at stride 1 and a split, or a split alone.  "
        "[default: dense]",
    ),
]


def densification_of(options: Mapping[str, Any], *, wanted: bool) -> Densification | None:
    """What --until, --upsampling and --max-pool say. Raises :class:`InputError` where --densify is not given."""
    from converters.densifying import Densification, MaxPool

    for name in ("until", "upsampling", "max_pool"):
        if not wanted and options[name] is not None:
            raise InputError(f"--{name.replace('_', '-')} is for --densify")
    if not wanted:
        return None
    return Densification.of(options["until"], options["upsampling"], options["max_pool"] or MaxPool.DENSE)


class FrameSize(NamedTuple):
    """Height and width of a frame in pixels."""

    height: int
    width: int


def frame_size(text: str | FrameSize) -> FrameSize:
    """``"1024x2048"`` -> ``(1024, 2048)``. Raises ``typer.BadParameter``."""
    if isinstance(text, FrameSize):
        # typer hands over defaults, too.
        return text
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text.strip())
    if match is None:
        raise typer.BadParameter(f"a size is HEIGHTxWIDTH in pixels, 1024x2048 for example; received {text!r}")
    return FrameSize(int(match[1]), int(match[2]))


def memory_bytes(text: str) -> int:
    """``"512MiB"`` -> ``536870912``. Raises ``typer.BadParameter``."""
    try:
        return bytes_of_memory(text)
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


def device_name(text: str) -> str:
    """``"cuda:1"``. Raises ``typer.BadParameter`` for what names no device."""
    try:
        return str(DeviceName.parse(text))
    except InputError as error:
        raise typer.BadParameter(str(error)) from error


def finite(value: float | tuple[float, ...] | None) -> float | tuple[float, ...] | None:
    """Refuse NaN and the infinities, which no range of typer's refuses, for a callback of an option."""
    for number in value if isinstance(value, tuple) else () if value is None else (value,):
        if not math.isfinite(number):
            raise typer.BadParameter(f"{number} is no finite number")
    return value


def above_zero(value: float | None) -> float | None:
    """Refuse 0 and less, and what is not finite: typer's ranges hold their ends."""
    finite(value)
    if value is not None and value <= 0:
        raise typer.BadParameter(f"{value} is not in the range x>0.")
    return value


def backend_names() -> tuple[str, ...]:
    """What ``--backend`` takes."""
    return tuple(backend.name for backend in BACKENDS)


def backend_name(text: str) -> str:
    """A name of :func:`backend_names`. Raises ``typer.BadParameter`` for another."""
    if text not in backend_names():
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, backend_names()))}.")
    return text


def backends_from(incomplete: str) -> list[str]:
    """For the completion of a shell."""
    return [name for name in backend_names() if name.startswith(incomplete)]


BundleArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle's directory.")]

JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

ImagesOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--images", metavar="PATH", help="An image file, a folder of images or a pattern; may be given several times."
    ),
]


def backend_option(text: str) -> Any:
    """``--backend``, with a command's own help."""
    return typer.Option(
        "--backend",
        parser=backend_name,
        autocompletion=backends_from,
        metavar=f"<{'|'.join(backend_names())}>",
        help=text,
    )


def memory_option(text: str) -> Any:
    """``--memory``, with a command's own help."""
    return typer.Option("--memory", parser=memory_bytes, metavar="SIZE", help=text)


def device_option(text: str) -> Any:
    """``--device``, with a command's own help."""
    return typer.Option("--device", parser=device_name, metavar="NAME", help=text)


BackendOption: TypeAlias = Annotated[str, backend_option("What runs the graphs.")]

PrecisionOption: TypeAlias = Annotated[Precision, typer.Option("--precision", help="Arithmetic of the trunk.")]

_CHOSEN = "[default: what `tune` found, or the only engine's, else the bundle's]"
"""What :func:`engines.choose_schedule` takes where no part of a schedule is named."""


def levels_option(default: str) -> Any:
    """``--levels``, with a command's own default."""
    text = f"Splits that a loop over their phases stands for; more take less memory.  {default}"
    return typer.Option("--levels", min=0, metavar="N", help=text)


def lowering_option(default: str) -> Any:
    """``--lowering``, with a command's own default."""
    return typer.Option("--lowering", help=f"How the splits inside the trunk are computed.  {default}")


def sub_batch_option(default: str) -> Any:
    """``--sub-batch``, with a command's own default."""
    text = f"Phases at a time; more take more memory.  {default}"
    return typer.Option("--sub-batch", min=1, metavar="N", help=text)


LevelsOption: TypeAlias = Annotated[int | None, levels_option(_CHOSEN)]

LoweringOption: TypeAlias = Annotated[Lowering | None, lowering_option(_CHOSEN)]

SubBatchOption: TypeAlias = Annotated[
    int | None,
    sub_batch_option("[default: 1 with --levels or --lowering, else as theirs]"),
]

MemoryOption: TypeAlias = Annotated[
    int | None, memory_option("Choose the schedule: the least compute that fits; sizes carry KiB, MiB or GiB.")
]

TrustOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--trust",
        metavar="POLICY",
        help="A file that says who must have signed the bundle; checked before a runtime reads any of it.",
    ),
]
DeviceOption: TypeAlias = Annotated[
    str | None, device_option("Which device of the backend: cpu, cuda, cuda:1.  [default: its first]")
]

DatasetOption: TypeAlias = Annotated[
    str,
    typer.Option("--dataset", metavar="NAME", help="camvid, cityscapes, gta5, folder, or scenes (generated)."),
]

RootOption: TypeAlias = Annotated[
    Path | None, typer.Option("--root", metavar="PATH", help="The dataset's directory; scenes need none.")
]


WeightsOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="KEY",
        help="The part of the checkpoint that counts, where it has several: ema_state_dict, for example.",
    ),
]

StripPrefixOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--strip-prefix",
        metavar="PREFIX",
        help="What to take off the keys of the checkpoint.  [default: found by matching them with the network's]",
    ),
]


def frames_of(bundle: Bundle, images: Sequence[str] | None) -> list[NDArray[np.uint8]]:
    """The frames of ``--images``, ``(H, W, 3)`` uint8 RGB; none without it.

    Raises :class:`engines.errors.FrameError` for an image that is not of the bundle's size.
    """
    from smp_deploy.images import Wanted, frame_from_file, image_files

    wanted = Wanted.by_bundle(bundle.manifest.input.size)
    return [frame_from_file(path, wanted) for path in image_files(images or ())]
