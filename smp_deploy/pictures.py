"""Pictures of predictions: indexed labels, overlays, side-by-side with a legend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from engines.bundle.manifest import ClassRecord
from engines.text import shown
from smp_deploy.images import resized, resized_labels

_OPACITY = 0.55
_BAND = 256
_PAD = 16
_SWATCH = 18
_ROW = 28
_COLUMN = 190
_INK = (30, 30, 30)
_PAPER = (255, 255, 255)
_LEAST_PANEL_WIDTH = 480


def indexed_labels(labels: NDArray[np.uint8], classes: list[ClassRecord]) -> Image.Image:
    """Labels ``(H, W)`` uint8 as a palette image: pixel values are classes, colours are theirs."""
    image = Image.fromarray(labels)
    image.putpalette([channel for record in classes for channel in record.color])
    return image


def colored(labels: NDArray[np.uint8], classes: list[ClassRecord]) -> NDArray[np.uint8]:
    """Labels ``(H, W)`` as colours ``(H, W, 3)`` uint8."""
    table = np.array([record.color for record in classes], np.uint8)
    return table[labels]


def overlay(frame: NDArray[np.uint8], labels: NDArray[np.uint8], classes: list[ClassRecord]) -> NDArray[np.uint8]:
    """The frame ``(H, W, 3)`` uint8 under the colours of its labels."""
    mixed = np.empty_like(frame)
    # In 8 bytes a number, of a few rows at a time.
    for top in range(0, len(frame), _BAND):
        rows = slice(top, top + _BAND)
        mixed[rows] = (frame[rows] * (1 - _OPACITY) + colored(labels[rows], classes) * _OPACITY).round()
    return mixed


def side_by_side(
    frame: NDArray[np.uint8], labels: NDArray[np.uint8], classes: list[ClassRecord], title: str
) -> Image.Image:
    """Frame, overlay and labels next to each other, above a legend of the classes that occur, with their shares."""
    height, width = frame.shape[:2]
    if width < _LEAST_PANEL_WIDTH:
        height, width = round(height * _LEAST_PANEL_WIDTH / width), _LEAST_PANEL_WIDTH
        frame, labels = resized(frame, (height, width)), resized_labels(labels, (height, width))
    panels = [frame, overlay(frame, labels, classes), colored(labels, classes)]
    shares = np.bincount(labels.ravel(), minlength=len(classes)) / labels.size
    present = [index for index in np.argsort(-shares) if shares[index] > 0]
    total_width = 3 * width + 4 * _PAD
    per_row = max(1, (total_width - _PAD) // _COLUMN)
    rows = -(-len(present) // per_row)
    legend_top = 2 * _PAD + _ROW + height
    picture = Image.new("RGB", (total_width, legend_top + rows * _ROW + _PAD), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=16)
    draw.text((_PAD, _PAD), shown(title), _INK, font)
    for index, panel in enumerate(panels):
        picture.paste(Image.fromarray(panel), (_PAD + index * (width + _PAD), _PAD + _ROW))
    for place, index in enumerate(present):
        left, top = _PAD + place % per_row * _COLUMN, legend_top + place // per_row * _ROW
        draw.rectangle((left, top, left + _SWATCH, top + _SWATCH), classes[index].color, _INK)
        draw.text((left + _SWATCH + 8, top), f"{shown(classes[index].name)} {shares[index]:.1%}", _INK, font)
    return picture
