"""The pictures of docs/concepts.md: ``python docs/pictures/make_pictures.py`` writes them beside this file."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

HERE = Path(__file__).parent
INK, FAINT, BORDER = "#222222", "#888888", "#e4e4e4"
PHASES = {(0, 0): "#8ecae6", (0, 1): "#ffb703", (1, 0): "#95d5b2", (1, 1): "#f4978e"}
"""A colour for each phase (row, column) of a 2x2 window."""


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A white page whose units are tenths of an inch, with y downwards."""
    figure = plt.figure(figsize=(width / 10, height / 10), dpi=110, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.axis("off")
    return figure, axes


def cell(axes: Axes, x: float, y: float, side: float, color: str, label: str = "", size: float = 9) -> None:
    """A square with a label in its middle."""
    axes.add_patch(Rectangle((x, y), side, side, facecolor=color, edgecolor="white", linewidth=1))
    axes.text(x + side / 2, y + side / 2, label, ha="center", va="center", fontsize=size, color=INK)


def text(axes: Axes, x: float, y: float, words: str, size: float = 10, **options: str) -> None:
    """Text centred at a point."""
    axes.text(x, y, words, {"ha": "center", "va": "center", "color": INK, **options}, fontsize=size)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """An arrow from point to point."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=14, color=INK, linewidth=1.3))


def save(figure: Figure, name: str) -> None:
    """Write a PNG without anything that differs between runs."""
    figure.savefig(HERE / name, facecolor="white", metadata={"Software": None})
    plt.close(figure)


def split_and_merge() -> None:
    """A 4x4 map, its four split batches, and the map again."""
    figure, axes = canvas(86, 34)
    side, top = 5.0, 8.0
    for left in (3.0, 63.0):
        for row in range(4):
            for column in range(4):
                place = (left + column * side, top + row * side)
                cell(axes, *place, side, PHASES[row % 2, column % 2], f"{row * 4 + column}")
    text(axes, 13, 4, "map  (1, c, 4, 4)")
    text(axes, 43, 4, "split batches  (4, c, 2, 2)")
    text(axes, 73, 4, "map  (1, c, 4, 4)")
    for batch, (row, column) in enumerate(PHASES):
        left, upper = 31.5 + column * 13, 7.0 + row * 13
        for i in range(2):
            for j in range(2):
                number = (2 * i + row) * 4 + 2 * j + column
                cell(axes, left + j * 4.3, upper + i * 4.3, 4.3, PHASES[row, column], f"{number}")
        text(axes, left + 4.3, upper + 10, f"{batch}: phase ({row}, {column})", 8)
    arrow(axes, (24, 18), (30.5, 18))
    text(axes, 27.2, 16.2, "split")
    arrow(axes, (55.5, 18), (62, 18))
    text(axes, 58.7, 16.2, "merge")
    save(figure, "split-merge.png")


def nested_splits() -> None:
    """Two nested 2x2 splits and the phases of one 4x4 window."""
    figure, axes = canvas(104, 39.5)
    side, top = 6.0, 9.0
    text(axes, 15, 5.5, "first split: phase (r1, c1)")
    text(axes, 52, 5.5, "second split: phase (r2, c2) of each")
    text(axes, 89, 5.5, "one 4x4 split: phase (row, column)")
    for row in range(4):
        for column in range(4):
            r1, c1, r2, c2 = row % 2, column % 2, row // 2, column // 2
            color = PHASES[r1, c1]
            nested = ((r1 * 2 + c1) * 2 + r2) * 2 + c2
            cell(axes, 3 + column * side, top + row * side, side, color, f"{r1},{c1}")
            # A batch of the first split is a block; the second split takes it apart.
            x, y = 39 + c1 * 14 + c2 * side, top - 1 + r1 * 14 + r2 * side
            cell(axes, x, y, side, color, f"{nested}", 10)
            place = (77 + column * side, top + row * side)
            cell(axes, *place, side, color, f"{nested}", 10)
            axes.text(place[0] + 0.6, place[1] + 1.5, f"{row},{column}", fontsize=6, color="#444444")
    arrow(axes, (29, 21), (36.5, 21))
    arrow(axes, (67.5, 21), (75, 21))
    text(axes, 52, 37, "large numbers: place in the batch after two splits, ((r1*2 + c1)*2 + r2)*2 + c2", 9)
    text(axes, 89, 34.5, "row = r1 + 2 r2,  column = c1 + 2 c2", 8.5)
    save(figure, "nested-splits.png")


def phase_window() -> None:
    """Prepared planes, the window of a phase, and the places of a 7x7 kernel with stride 4."""
    side, pad, (height, width), (h, w), (row, column) = 2.0, 3, (8, 12), (4, 4), (1, 2)
    figure, axes = canvas(94, 38.5)
    left, top = 4.0, 8.0
    for y in range(height + 2 * pad):
        for x in range(width + 2 * pad):
            inside = pad <= y < pad + height and pad <= x < pad + width
            sampled = inside and (y - pad) % h == row and (x - pad) % w == column
            color = "#f4978e" if sampled else "#cfe8f3" if inside else BORDER
            cell(axes, left + x * side, top + y * side, side, color, "" if inside else "0", 6)

    def outline(x: int, y: int, columns: int, rows: int, color: str, style: str = "-", line: float = 2.0) -> None:
        corner = (left + x * side, top + y * side)
        axes.add_patch(Rectangle(corner, columns * side, rows * side, fill=False, ec=color, ls=style, lw=line))

    rows, columns = height + 2 * pad - h + 1, width + 2 * pad - w + 1
    outline(column, row, columns, rows, "#c1121f", "-", 2.6)
    outline(column, row, 7, 7, "#1d3557", "--", 1.8)
    outline(column + w, row, 7, 7, "#1d3557", ":", 1.8)
    text(axes, left + 18, 5, "prepared planes: frame 8x12, border 3, so 14x18")
    notes = (
        ("#e4e4e4", "border: zeros after normalisation"),
        ("#cfe8f3", "the frame's pixels"),
        ("#f4978e", "pixels of phase (1, 2) of a 4x4 window: the kernel's centres"),
    )
    for index, (color, words) in enumerate(notes):
        cell(axes, 44, 8 + index * 4, 2.4, color)
        text(axes, 48, 9.3 + index * 4, words, 9, ha="left")
    lines = (
        ("#c1121f", "-", "window of phase (1, 2): begins at row 1, column 2 of the planes;"),
        ("#1d3557", "--", "first place of the 7x7 kernel"),
        ("#1d3557", ":", "next place, 4 columns on: stride 4"),
    )
    for index, (color, style, words) in enumerate(lines):
        level = 21.3 + index * 4 + (2.5 if index else 0)
        axes.plot((44, 46.6), (level, level), color=color, ls=style, lw=2.4)
        text(axes, 48, level, words, 9, ha="left")
    text(axes, 48, 23.8, "11x15 = (8 + 6 - 4 + 1) x (12 + 6 - 4 + 1)", 9, ha="left")
    text(axes, 44, 36.2, "The kernel reads no pixel outside the window and needs no padding.", 9, ha="left")
    save(figure, "phase-window.png")


def pipeline() -> None:
    """From a frame to its labels, with the sizes of SMP-18 at 1024x2048."""
    figure, axes = canvas(112, 30)
    steps = (
        ("frame", "uint8\n(1024, 2048, 3)", "#f1f1f1"),
        ("prepare.onnx", "cast, normalise, pad:\nfloat32 planes\n(3, 1030, 2054)", "#cfe8f3"),
        ("cut", "float32 windows\n(n, 3, 1027, 2051)", "#f1f1f1"),
        ("trunk.onnx", "logits, argmax,\n3 inner merges: uint8\n(n, 256, 512)", "#cfe8f3"),
        ("merge", "labels uint8\n(1024, 2048)", "#f1f1f1"),
    )
    width, gap, top, height = 17.6, 4.6, 9.0, 11.0
    for index, (name, gives, color) in enumerate(steps):
        x = 2 + index * (width + gap)
        axes.add_patch(
            FancyBboxPatch((x, top), width, height, boxstyle="round,pad=0,rounding_size=1", fc=color, ec=FAINT)
        )
        text(axes, x + width / 2, top + 2.8, name, 10.5, weight="bold")
        text(axes, x + width / 2, top + 7.2, gives, 9)
        if index:
            arrow(axes, (x - gap, top + height / 2), (x, top + height / 2))
    first, last = 2 + 2 * (width + gap) - 1.6, 2 + 4 * (width + gap) + width + 1.6
    axes.add_patch(Rectangle((first, 6.2), last - first, 16.6, fill=False, ec="#c1121f", ls="--", lw=1.4))
    text(axes, (first + last) / 2, 3.8, "loop over the 16 phases, n = sub-batch at a time", 10, color="#c1121f")
    text(
        axes,
        56,
        26.8,
        "blue: graphs of the bundle, run by the backend.  grey: numpy copies, no arithmetic.",
        9,
    )
    save(figure, "pipeline.png")


if __name__ == "__main__":
    split_and_merge()
    nested_splits()
    phase_window()
    pipeline()
