"""Pictures of a report: figures as SVG that follow the page's colours, overlays as PNG.

matplotlib writes colours as hexadecimal numbers. The figures are drawn in stand-in colours, which are then replaced
by variables of the page's style sheet, so that one figure serves light and dark.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.bundle.records import Check, LayerFigures
from engines.errors import MissingDependency
from engines.schedules.schedule import Precision
from engines.text import shown
from smp_deploy.figures import own_settings

_INK, _MUTED, _GOOD, _BAD, _ACCENT, _FAINT = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {_INK: "ink", _MUTED: "muted", _GOOD: "good", _BAD: "bad", _ACCENT: "accent", _FAINT: "line"}

_FLOOR = 1e-9
"""What is below it is drawn there: a logarithmic scale has no zero."""

_WIDTH = 8.6
"""Inches, of 72 points each."""

_TIE, _WRONG = (245, 190, 40), (230, 40, 60)


def hop_words(hop: Check) -> str:
    """``PyTorch -> model.onnx``."""
    return " -> ".join(hop.hop or ())


def chain_figure(hops: Sequence[Check]) -> str:
    """Measured error against tolerance, a row for each hop, all of which have a figure."""
    with _figure(_WIDTH * 0.8, 0.6 + 0.52 * len(hops)) as (figure, save):
        axes = figure.subplots()
        bar: dict[str, Any] = {"linewidth": 9, "solid_capstyle": "butt"}
        for place, hop in enumerate(reversed(hops)):
            measured, tolerance = _finite(hop.value), _finite(hop.tolerance)
            color = _GOOD if measured <= tolerance else _BAD
            axes.plot([_FLOOR, tolerance], [place, place], color=_FAINT, **bar)
            axes.plot([_FLOOR, max(measured, _FLOOR * 1.3)], [place, place], color=color, **bar)
            axes.plot([tolerance], [place], marker="|", markersize=15, markeredgewidth=2.2, color=_INK)
            # Above its bar, so that the figure stays readable on a narrow screen.
            figures = "exact" if measured == 0 else f"{measured:.2g} of {tolerance:g}"
            words = f"{hop_words(hop)}: {figures}"
            text: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9.5, "parse_math": False}
            axes.annotate(shown(words), (_FLOOR, place), (0, 9), **text)
        axes.set_yticks([])
        axes.set_xscale("log")
        largest = max([1e-1, *(2 * max(_finite(hop.value), _finite(hop.tolerance)) for hop in hops)])
        axes.set_xlim(_FLOOR, min(largest, 1e6))
        axes.set_ylim(-0.5, len(hops) - 0.3)
        axes.set_xlabel("error relative to the largest logit; the upright mark is the tolerance")
        _clean(axes)
        return str(save())


def layers_figure(layers: Sequence[LayerFigures], precision: Precision, tolerance: float) -> str:
    """The error of every layer in a precision, from the first to the last; all of them have one."""
    drawn = [(layer.name, _finite(layer.error[precision])) for layer in layers]
    with _figure(_WIDTH, 3.2) as (figure, save):
        axes = figure.subplots()
        places, values = range(len(drawn)), [max(value, _FLOOR) for _, value in drawn]
        colors = [_BAD if value > tolerance else _ACCENT for value in values]
        axes.vlines(places, _FLOOR, values, colors=colors, linewidth=2)
        axes.scatter(places, values, c=colors, s=22, zorder=3)
        axes.axhline(tolerance, color=_INK, linewidth=1.2)
        axes.annotate("tolerance of the logits", (0, tolerance), (0, 4), textcoords="offset points", color=_INK)
        axes.set_yscale("log")
        low = min([tolerance, *(value for value in values if value > _FLOOR)]) / 10
        axes.set_ylim(low, max([tolerance, *values]) * 5)
        names = [shown(name) for name, _ in drawn]
        axes.set_xticks(places, names, rotation=60, ha="right", fontsize=8, parse_math=False)
        axes.set_ylabel("relative error")
        _clean(axes)
        return str(save())


def phases_figure(errors: Sequence[Sequence[float]], agreement: Sequence[Sequence[float]]) -> str:
    """Mean error of the logits and share of differing labels at every phase of the loop's window."""
    left = np.array([[_finite(value) for value in row] for row in errors])
    right = np.array(agreement, np.float64)
    rows = len(left)
    with _figure(_WIDTH, max(2.6, min(4.4, 0.5 * rows + 1.2))) as (figure, save):
        for axes, values, title in zip(
            figure.subplots(1, 2),
            (left, 100 * right),
            ("mean error of the logits, relative", "labels that differ, %"),
            strict=True,
        ):
            image = axes.imshow(values, cmap="cividis", vmin=0, vmax=max(float(values.max()), 1e-12))
            axes.set_title(title, fontsize=10, color=_INK)
            axes.set_xlabel("column of the phase")
            axes.set_ylabel("row")
            axes.set_xticks(range(values.shape[1]) if values.shape[1] <= 8 else [])
            axes.set_yticks(range(rows) if rows <= 8 else [])
            axes.tick_params(length=0)
            for side in axes.spines.values():
                side.set_visible(False)
            bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04)
            bar.outline.set_visible(False)
        return str(save())


def overlay_png(
    image: NDArray[np.uint8], expected: NDArray[np.uint8], actual: NDArray[np.uint8], ties: NDArray[np.bool_]
) -> str:
    """A data URI: the frame in grey, pixels that differ in red, ties among them in yellow; grown to be seen."""
    grey = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2) * 0.6 + 60
    differs = actual != expected
    drawn = grey.clip(0, 255).astype(np.uint8)
    for mask, color in ((differs & ties, _TIE), (differs & ~ties, _WRONG)):
        drawn[_grown(mask)] = color
    return png_uri(drawn)


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """``(H, W, 3)`` as a data URI, no wider than 640 pixels."""
    picture, stream = Image.fromarray(pixels), io.BytesIO()
    if picture.width > 640:
        picture = picture.resize((640, round(picture.height * 640 / picture.width)), Image.Resampling.BILINEAR)
    picture.save(stream, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _grown(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """With the four neighbours of every pixel: a single one would not be seen."""
    grown = mask.copy()
    grown[1:] |= mask[:-1]
    grown[:-1] |= mask[1:]
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    return grown


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependency("matplotlib", "report") from error
    settings: Any = {
        "svg.fonttype": "none",
        # A matplotlibrc in the working folder could have LaTeX run.
        "text.usetex": False,
        # Names inside the file depend on it, and a report of the same record is the same file.
        "svg.hashsalt": "smp-deploy",
        "text.color": _INK,
        "axes.labelcolor": _MUTED,
        "axes.edgecolor": _MUTED,
        "xtick.color": _MUTED,
        "ytick.color": _INK,
        "font.size": 10,
    }
    with own_settings(settings):
        figure = Figure(figsize=(width, height), layout="constrained")

        def save() -> str:
            stream = io.StringIO()
            figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            return _inline(stream.getvalue())

        yield figure, save


def _inline(svg: str) -> str:
    """Without its prologue and fixed size, in the page's colours, its labels in the page's font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for color, name in _VARIABLES.items():
        svg = svg.replace(color, f"var(--{name})")
    # Images are named after their content, so the bars of two maps share a name, which nothing refers to.
    svg = re.sub(r' id="image[0-9a-f]+"', "", svg)
    # The same names in several figures of one page would collide.
    salt = "f" + hashlib.sha256(svg.encode()).hexdigest()[:8]
    svg = re.sub(r'id="([^"]+)"', rf'id="{salt}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{salt}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{salt}-\1"', svg)
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]+", r"font: \1px system-ui, sans-serif", svg)
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


def _clean(axes: Any) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.minorticks_off()


def _finite(value: float | None) -> float:
    return 0.0 if value is None else value if math.isfinite(value) else 1e6
