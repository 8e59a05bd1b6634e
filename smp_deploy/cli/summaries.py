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
        (
            "loop",
            f"{len(grid.phases)} phases of level {manifest.trunk.levels}, each from a window of "
            f"{shown(grid.window_size)} to predictions of {shown(grid.phase_size)}",
        ),
        ("graphs", f"{manifest.model}, {manifest.prepare}, {trunks}; opset {manifest.opset}"),
        (
            "size",
            f"{sum(record.size for record in manifest.files.values()) / 1e6:.1f} MB in {len(manifest.files)} files",
        ),
    ]


def shown(size: Size) -> str:
    """``(1024, 2048)`` as ``1024x2048``."""
    return f"{size[0]}x{size[1]}"
