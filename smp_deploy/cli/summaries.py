"""What commands say of a bundle."""

from __future__ import annotations

from engines.bundle import Bundle
from engines.phases import Size


def bundle_rows(bundle: Bundle) -> list[tuple[str, str]]:
    """The facts of a manifest, as rows of a table."""
    manifest = bundle.manifest
    grid = manifest.grid
    width = f", width {manifest.network.width}" if manifest.network.width else ""
    padding = f", padded to {shown(grid.padded_size)}" if grid.padded_size != grid.frame_size else ""
    trunks = ", ".join(f"{name} ({precision.value})" for precision, name in manifest.trunk.graphs.items())
    return [
        ("network", f"{manifest.network.source}{width}, {manifest.network.parameters / 1e6:.3f} M parameters"),
        ("frame", f"uint8 {shown(grid.frame_size)} x 3{padding}"),
        ("gives", f"{manifest.outputs.value} of {len(manifest.classes)} classes"),
        ("splits", ", ".join(shown(window) for window in manifest.windows) or "none"),
        ("loop", _loop(bundle)),
        ("graphs", f"{manifest.model}, {manifest.prepare}, {trunks}; opset {manifest.opset}"),
        (
            "size",
            f"{sum(record.size for record in manifest.files.values()) / 1e6:.1f} MB in {len(manifest.files)} files",
        ),
    ]


def _loop(bundle: Bundle) -> str:
    grid, levels = bundle.manifest.grid, bundle.manifest.trunk.levels
    if not levels:
        return "none: the trunk takes the whole frame, and no schedule bounds its memory"
    return (
        f"{len(grid.phases)} phases of level {levels}, each from a window of {shown(grid.window_size)} "
        f"to predictions of {shown(grid.phase_size)}"
    )


def shown(size: Size) -> str:
    """``(1024, 2048)`` as ``1024x2048``."""
    return f"{size[0]}x{size[1]}"
