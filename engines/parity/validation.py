"""The record of a validation, made of its checks."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TypeAlias

from engines.bundle.bundle import Bundle
from engines.bundle.records import (
    VALIDATION_VERSION,
    Check,
    LabelFigures,
    LayerFigures,
    OverlayName,
    Platform,
    Status,
    ToolVersions,
    ValidatedNetwork,
    Validation,
    counts_of,
    verdict_of,
)
from engines.parity.tolerances import tolerance_of
from engines.schedules.schedule import Precision

OnCheck: TypeAlias = Callable[[Check], object]
"""Called with every check as soon as it is made."""


@dataclass(frozen=True)
class ValidationFigures:
    """What a validation of graphs shows beside its checks."""

    window: tuple[int, int] = (1, 1)
    layers: list[LayerFigures] = field(default_factory=list)
    agreements: dict[Precision, LabelFigures] = field(default_factory=dict)
    overlays: list[OverlayName] = field(default_factory=list)


def validation_from_checks(
    bundle: Bundle,
    checks: Sequence[Check],
    *,
    seconds: float,
    overrides: Mapping[str, float],
    frames: Sequence[str],
    commands: Sequence[str],
    tools: Mapping[str, str],
    figures: ValidationFigures | None = None,
) -> Validation:
    """All that a validation has shown, with the tolerances it was held to and what it ran on.

    ``tools`` are the packages of this machine and their versions.
    """
    manifest, figures = bundle.manifest, figures or ValidationFigures()
    graphs = manifest.trunk().graphs
    # A backend may compute in a precision that is no graph of the bundle.
    held_to = [check.precision for check in checks if check.precision is not None]
    return Validation(
        record_version=VALIDATION_VERSION,
        bundle=str(bundle.path),
        verdict=verdict_of(checks),
        counts=counts_of(checks),
        not_proven=[f"{check.name}: {check.detail}" for check in checks if check.status is Status.NOT_RUN],
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        seconds=round(seconds, 1),
        network=ValidatedNetwork(source=manifest.network.source, parameters=manifest.network.parameters),
        frame=manifest.input.size,
        outputs=manifest.outputs,
        frames=list(frames),
        chain=[manifest.model, *graphs.values()],
        tolerances={
            precision: tolerance_of(precision, overrides)
            for precision in dict.fromkeys((Precision.FP32, *graphs, *held_to))
        },
        overrides=dict(overrides),
        checks=list(checks),
        window=figures.window,
        layers=figures.layers,
        agreements=figures.agreements,
        overlays=figures.overlays,
        machine=Platform(system=f"{platform.system()} {platform.machine()}", python=platform.python_version()),
        tools=ToolVersions(at_export=manifest.tools, here=dict(tools)),
        files=bundle.digests,
        commands=list(commands),
    )
