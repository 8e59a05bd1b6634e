"""``smp-deploy validate``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engines.bundle import Bundle
from engines.errors import CheckFailed, MissingDependency
from engines.parity import Check, Status
from smp_deploy.cli.console import note, print_json, print_table
from smp_deploy.cli.options import bundle_argument, images_option, json_option

if TYPE_CHECKING:
    from torch import nn


@click.command("validate", short_help="Prove numeric parity, hop by hop.")
@bundle_argument
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="The checkpoint the bundle was exported from: run PyTorch anew on every frame.",
)
@images_option
@json_option
def validate_command(bundle: Path, checkpoint: Path | None, images: tuple[str, ...], as_json: bool) -> dict[str, Any]:
    """Prove numeric parity of BUNDLE: PyTorch against its graphs in ONNX Runtime, and phases against the whole.

    PyTorch's outputs for the reference frames are in the bundle, so neither the checkpoint nor the network's code
    is needed. With --images, frames of the user's are checked too. A check that cannot run here is listed as
    "not run". Exit code 1 when a check fails.
    """
    from smp_deploy.images import check_size, frame_from_file, image_files

    opened = Bundle.open(bundle)
    try:
        from converters.verification import LiveFrame, checks_of_bundle
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    frames = tuple(LiveFrame(path.name, frame_from_file(path)) for path in image_files(images))
    for frame in frames:
        check_size(frame.name, frame.image, opened.manifest.input.size)
    checks = []
    for check in checks_of_bundle(opened, network=_network(opened, checkpoint), frames=frames):
        note(f"{check.name}, {check.subject}: {check.status.value}")
        checks.append(check)
    document = {"bundle": str(bundle), "checks": [_as_json(check) for check in checks]}
    if as_json:
        print_json(document)
    else:
        _print(checks)
    if failed := sum(check.status is Status.FAILED for check in checks):
        raise CheckFailed(f"{failed} of {len(checks)} checks failed")
    return document


def _network(bundle: Bundle, checkpoint: Path | None) -> nn.Module | None:
    if checkpoint is None:
        return None
    from converters.checkpoints import checkpoint_from_file, load_checkpoint
    from converters.networks import network_from_source

    record = bundle.manifest.network
    network = network_from_source(record.source, classes=len(bundle.manifest.classes), width=record.width or 64)
    loaded = checkpoint_from_file(checkpoint)
    if loaded.sha256 != record.checkpoint_sha256:
        note(f"{checkpoint} is not the checkpoint that the bundle was exported from (SHA-256 differs)")
    load_checkpoint(network, loaded)
    return network


def _print(checks: list[Check]) -> None:
    print_table(
        ("check", "on", "measured", "tolerance", "result", ""),
        [
            (
                check.name,
                check.subject,
                "" if check.measured is None else f"{check.measured:.6g}",
                f"{check.tolerance:g}",
                check.status.value,
                check.detail,
            )
            for check in checks
        ],
    )
    counts = {status: sum(check.status is status for check in checks) for status in Status}
    click.echo(", ".join(f"{count} {status.value}" for status, count in counts.items() if count))


def _as_json(check: Check) -> dict[str, object]:
    return {
        "name": check.name,
        "subject": check.subject,
        "status": check.status.value,
        "measured": check.measured if check.measured is None or math.isfinite(check.measured) else str(check.measured),
        "tolerance": check.tolerance,
        "detail": check.detail,
    }
