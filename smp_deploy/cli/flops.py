"""``smp-deploy flops``."""

from __future__ import annotations

import click

from engines.errors import MissingDependency
from engines.schedules.phases import Size, padded_size
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.options import SizeType, json_option
from smp_deploy.cli.summaries import shown


@click.command("flops", short_help="Count the operations of networks.")
@click.option("--arch", "archs", multiple=True, metavar="NAME", help="A known network; may be given several times.")
@click.option(
    "--size", type=SizeType(), metavar="HxW", default="1024x2048", show_default=True, help="Frame, height x width."
)
@click.option("--classes", type=click.IntRange(1), default=19, show_default=True, help="Channels of the logits.")
@click.option("--width", type=click.IntRange(1), default=64, show_default=True, help="Channels of the stem.")
@click.option("--table5", is_flag=True, help="The paper's Table 5: the networks of Figure 7 at 256x256.")
@json_option
def flops_command(archs: tuple[str, ...], size: Size, classes: int, width: int, table5: bool, as_json: bool) -> None:
    """Count the operations of networks, component by component.

    A multiply-accumulate counts as two, a bias or a ReLU as one; batch norms are part of the convolutions. With
    --table5 the figures are those of the paper's run-time analysis.
    """
    if bool(archs) == table5:
        raise click.UsageError("name networks with --arch, or ask for --table5")
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
        for arch in archs:
            with torch.device("meta"):
                network = network_from_arch(arch, classes=classes, width=width)
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
