"""Layout, bit for bit: every pixel has a number; cutting the phases out and placing them must give it back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from converters.verification.subject import Subject
from engines.parity import Check, Kind
from engines.phases import PhaseGrid


def layout_checks(subject: Subject) -> Iterator[Check]:
    """One check for the levels of every trunk; trunks of the same levels share their layout."""
    manifest = subject.bundle.manifest
    for levels in dict.fromkeys(trunk.levels for trunk in manifest.trunks):
        yield _layout_check(manifest.grid(manifest.trunk(levels)), levels)


def _layout_check(grid: PhaseGrid, levels: int) -> Check:
    height, width = grid.padded_size
    numbered = np.arange(height * width).reshape(1, height, width)
    merged = np.full_like(numbered, -1)
    for phases in grid.sub_batches(1):
        grid.place(grid.at_phase(numbered, phases[0])[None], phases, merged)
    wrong = int((merged != numbered).sum())
    subject = f"layout of {height}x{width}, levels {levels}"
    return Check.at_most("phases -> merged", subject, wrong, 0, "pixels at another place", Kind.LAYOUT)
