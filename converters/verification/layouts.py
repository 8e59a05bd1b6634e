"""Layout, bit for bit: every pixel has a number; the windows that a session cuts, sub-batch by sub-batch, and what
it merges must give it back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from converters.verification.subject import Subject
from engines.bundle.records import Check, Kind, Quantity
from engines.parity.checks import Question
from engines.schedules.phases import PhaseGrid


def layout_checks(subject: Subject) -> Iterator[Check]:
    """One check for the levels of every trunk; trunks of the same levels share their layout."""
    manifest = subject.bundle.manifest
    for levels in dict.fromkeys(trunk.levels for trunk in manifest.trunks):
        yield _layout_check(manifest.grid(manifest.trunk(levels)), levels)


def _layout_check(grid: PhaseGrid, levels: int) -> Check:
    height, width = grid.padded_size
    numbered = np.arange(height * width, dtype=np.int64).reshape(1, height, width)
    (top, left, *_), (g, f) = grid.border, grid.cut_window
    planes = np.full((1, *grid.planes_size), -1, np.int64)
    planes[:, top : top + height, left : left + width] = numbered
    merged = np.full_like(numbered, -1)
    for phases in grid.sub_batches(grid.largest_sub_batch):
        # What a network reads beyond its own pixels is around them; the levels inside follow on what is left.
        pixels = grid.cut(planes, phases)[..., top::g, left::f][..., : height // g, : width // f]
        for (h, w), (row, column) in zip(grid.inner_windows, grid.inner_offsets(phases), strict=True):
            pixels = pixels[..., row::h, column::w]
        grid.place(pixels, phases, merged)
    wrong = int((merged != numbered).sum())
    question = Question(
        kind=Kind.LAYOUT,
        name="phases -> merged",
        subject=f"layout of {height}x{width}, levels {levels}",
        quantity=Quantity.MISPLACED_PIXELS,
        tolerance=0,
    )
    return question.measured(wrong)
