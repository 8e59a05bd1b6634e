"""``smp-deploy densify``: a look at what ``export --densify`` would do."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from engines.errors import InputError, MissingDependency
from smp_deploy.cli.console import print_json, print_lines, print_table
from smp_deploy.cli.errors import in_options
from smp_deploy.cli.options import (
    FrameSize,
    JsonOption,
    MaxPoolOption,
    UntilOption,
    UpsamplingOption,
    densification_of,
    frame_size,
)


def densify_command(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PACKAGE.MODULE:FACTORY", help="A strided network of your own."),
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", metavar="NAME", help="A known one, fcn32s-resnet18 for example.")
    ] = None,
    *,
    size: Annotated[
        FrameSize,
        typer.Option("--size", parser=frame_size, metavar="HxW", help="Frames, height x width in pixels."),
    ],
    until: UntilOption = None,
    upsampling: UpsamplingOption = None,
    max_pool: MaxPoolOption = None,
    as_json: JsonOption = False,
) -> dict[str, Any]:
    """Show what a strided network becomes when it is made dense, layer by layer, and write nothing.

    Every strided layer becomes the same one with stride 1 and a split behind it, with the same weights. What is found
    is checked on the network itself. `export --densify` makes the bundle of it.
    """
    if (arch is None) == (model is None):
        raise InputError("name the network, either with --arch or with --model")
    try:
        import torch  # noqa: F401 - tells at once that the extra is missing

        from converters.densifying import densified
        from converters.networks import network_from_arch, network_from_factory
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    densification = densification_of(context.params, wanted=True)
    assert densification is not None
    network = network_from_factory(model) if model is not None else network_from_arch(str(arch))
    _, report = densified(network, size, densification)
    document = report.as_document()
    if as_json:
        print_json(document)
    else:
        print_table(("layer", "kind", "level", "", "in the dense network"), report.rows())
        print_lines(in_options("\n".join(report.summary())))
    return document
