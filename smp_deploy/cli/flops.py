"""``smp-deploy flops``."""

from __future__ import annotations

from typing import Annotated

import typer

from engines.errors import InputError, MissingDependency
from engines.schedules.phases import padded_size
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.options import FrameSize, JsonOption, frame_size
from smp_deploy.cli.summaries import shown

_FRAME = FrameSize(1024, 2048)


def flops_command(
    archs: Annotated[
        list[str] | None,
        typer.Option("--arch", metavar="NAME", help="A known network; may be given several times."),
    ] = None,
    size: Annotated[
        FrameSize | None,
        typer.Option(
            "--size",
            parser=frame_size,
            metavar="HxW",
            help="Frame, height x width.  [default: 1024x2048]",
        ),
    ] = None,
    classes: Annotated[
        int | None, typer.Option("--classes", min=1, metavar="N", help="Channels of the logits.  [default: 19]")
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", min=1, metavar="N", help="Channels of the stem.  [default: 64]")
    ] = None,
    table5: Annotated[
        bool, typer.Option("--table5", help="The paper's Table 5: the networks of Figure 7 at 256x256.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Count the operations of networks, component by component.

    A multiply-accumulate counts as two, a bias or a ReLU as one; batch norms are part of the convolutions. With
    --table5 the figures are those of the paper's run-time analysis.
    """
    if bool(archs) == table5:
        raise InputError("name networks with --arch, or ask for --table5")
    for name, value in {"size": size, "classes": classes, "width": width}.items():
        if table5 and value is not None:
            raise InputError(f"--{name} is for --arch; the networks of --table5 are as the paper has them")
    size = size or _FRAME
    try:
        import torch

        from converters.flops import flops_by_component
        from converters.networks import FIGURE7, network_from_arch
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    if table5:
        counts = {name: flops_by_component(factory(), (256, 256)) for name, factory in FIGURE7.items()}
    else:
        counts = {}
        for arch in archs or ():
            with torch.device("meta"):
                network = network_from_arch(arch, classes=classes or 19, width=width or 64)
            # As an export pads a frame.
            padded = padded_size(size, network.size_multiple)
            if padded != size:
                note(f"{arch}: frames of {shown(size)} are padded to {shown(padded)}")
            counts[arch] = flops_by_component(network, padded)
    if as_json:
        print_json({name: {**parts, "total": sum(parts.values())} for name, parts in counts.items()})
        return
    for name, parts in counts.items():
        rows = [(component, f"{count / 1e9:.2f}") for component, count in parts.items()]
        print_table((name, "GFLOP"), [*rows, ("total", f"{sum(parts.values()) / 1e9:.2f}")])
