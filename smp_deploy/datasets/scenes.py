"""Procedural road scenes with pixel-exact labels and thin objects, for those who have no data at hand.

Every frame is a function of its split and number alone: the same on every machine and in any order. A shape is
painted into the image and, without anti-aliasing, into the labels, so the labels are exact to the pixel. Poles
are 1 to 4 pixels wide and signs a few pixels across: what a network that subsamples loses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from engines.errors import DatasetError
from smp_deploy.datasets.base import DatasetInfo, Example
from smp_deploy.datasets.label_images import Colour

SKY, BUILDING, TREE, ROAD, PAVEMENT, POLE, SIGN, CAR, PEDESTRIAN = range(9)

SCENES = DatasetInfo(
    name="scenes",
    classes=("sky", "building", "tree", "road", "pavement", "pole", "sign", "car", "pedestrian"),
    colours=(
        (70, 130, 180),
        (70, 70, 70),
        (107, 142, 35),
        (128, 64, 128),
        (244, 35, 232),
        (153, 153, 153),
        (220, 220, 0),
        (0, 0, 142),
        (220, 20, 60),
    ),
    ignore_id=255,
    thin=(POLE, SIGN, PEDESTRIAN),
)

SPLITS = {"train": 200, "val": 50}
"""The splits and how many frames each has."""

_Box: TypeAlias = tuple[float, float, float, float]
"""``(left, top, right, bottom)`` in pixels, edges included."""


class Scenes:
    """One split of the procedural scenes.

    Args:
        split: ``train`` or ``val``.
        size: ``(height, width)`` of a frame, at least 32x32.
        count: how many frames; by default what :data:`SPLITS` says.
    """

    info = SCENES

    def __init__(self, split: str, *, size: tuple[int, int] = (192, 256), count: int | None = None) -> None:
        if split not in SPLITS:
            raise DatasetError(f"scenes has the splits {', '.join(SPLITS)}; received {split!r}")
        if min(size) < 32:
            raise DatasetError(f"a scene is at least 32x32 pixels; received {size[0]}x{size[1]} (height x width)")
        self._split = split
        self._size = size
        self._count = SPLITS[split] if count is None else count

    def __len__(self) -> int:
        return self._count

    def load(self, index: int) -> Example:
        """The scene with this number."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        rng = np.random.default_rng([list(SPLITS).index(self._split), index])
        image, labels = draw_scene(rng, self._size)
        return Example(f"{self._split}-{index:05d}", image, labels)


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One scene: ``(H, W, 3)`` uint8 RGB and ``(H, W)`` uint8 class numbers."""
    canvas = _Canvas(rng, size)
    height, width = size
    horizon = height * rng.uniform(0.35, 0.5)
    vanishing = width * rng.uniform(0.4, 0.6)
    _buildings_and_trees(canvas, horizon)
    _ground(canvas, horizon, vanishing)
    # Far things first, so that near ones cover them.
    for depth in np.sort(rng.uniform(0.08, 1.0, rng.integers(8, 15))):
        _object(canvas, horizon, vanishing, float(depth))
    return canvas.finished()


@dataclass
class _Canvas:
    """An image and its labels, painted together."""

    rng: np.random.Generator
    size: tuple[int, int]
    _image: Image.Image = field(init=False)
    _labels: Image.Image = field(init=False)

    def __post_init__(self) -> None:
        height, width = self.size
        sky = self.rng.integers((120, 150, 180), (200, 220, 256))
        fade = np.linspace(0.75, 1.15, height)[:, None, None]
        gradient = np.broadcast_to(np.clip(sky * fade, 0, 255).astype(np.uint8), (height, width, 3))
        self._image = Image.fromarray(np.ascontiguousarray(gradient))
        self._labels = Image.new("L", (width, height), SKY)

    def colour(self, low: Colour, high: Colour) -> Colour:
        """A random colour between two."""
        red, green, blue = self.rng.integers(low, np.add(high, 1))
        return int(red), int(green), int(blue)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour, label: int) -> None:
        rounded = [(round(x), round(y)) for x, y in points]
        ImageDraw.Draw(self._image).polygon(rounded, fill=colour)
        ImageDraw.Draw(self._labels).polygon(rounded, fill=label)

    def rectangle(self, box: _Box, colour: Colour, label: int) -> None:
        rounded = _rounded(box)
        ImageDraw.Draw(self._image).rectangle(rounded, fill=colour)
        ImageDraw.Draw(self._labels).rectangle(rounded, fill=label)

    def ellipse(self, box: _Box, colour: Colour, label: int) -> None:
        rounded = _rounded(box)
        ImageDraw.Draw(self._image).ellipse(rounded, fill=colour)
        ImageDraw.Draw(self._labels).ellipse(rounded, fill=label)

    def finished(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The image with coarse light, fine grain and an exposure; the labels as they are."""
        height, width = self.size
        image = np.asarray(self._image, dtype=np.float32)
        coarse = Image.fromarray(self.rng.uniform(0.85, 1.15, (6, 8)).astype(np.float32))
        light = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
        image = image * light[..., None] * self.rng.uniform(0.75, 1.15)
        image = image + self.rng.normal(0, 7, image.shape).astype(np.float32)
        return np.clip(image, 0, 255).astype(np.uint8), np.asarray(self._labels).copy()


def _buildings_and_trees(canvas: _Canvas, horizon: float) -> None:
    rng, (height, width) = canvas.rng, canvas.size
    left = 0.0
    while left < width:
        right = left + width * rng.uniform(0.06, 0.22)
        if rng.random() < 0.75:
            top = horizon * rng.uniform(0.05, 0.85)
            wall = canvas.colour((70, 60, 55), (170, 150, 140))
            canvas.rectangle((left, top, right, horizon + height * 0.08), wall, BUILDING)
            step = max(5.0, height / 28)
            pane = canvas.colour((30, 35, 45), (80, 90, 110))
            for y in np.arange(top + step, horizon, step):
                for x in np.arange(left + step / 2, right - step / 2, step):
                    canvas.rectangle((x, y, x + step * 0.4, y + step * 0.45), pane, BUILDING)
        if rng.random() < 0.45:
            radius = height * rng.uniform(0.06, 0.16)
            leaf = canvas.colour((25, 60, 15), (90, 130, 60))
            for _ in range(5):
                x, y = left + rng.normal(0, radius * 0.6), horizon - radius * rng.uniform(0.1, 1.3)
                canvas.ellipse((x - radius * 0.7, y - radius * 0.6, x + radius * 0.7, y + radius * 0.6), leaf, TREE)
        left = right


def _ground(canvas: _Canvas, horizon: float, vanishing: float) -> None:
    rng, (height, width) = canvas.rng, canvas.size
    canvas.rectangle((0, horizon, width, height), canvas.colour((120, 115, 110), (180, 170, 165)), PAVEMENT)
    half = width * rng.uniform(0.35, 0.6)
    edge = [(vanishing - 2, horizon), (vanishing + 2, horizon)]
    base = [(vanishing + half, float(height)), (vanishing - half, float(height))]
    canvas.polygon([*edge, *base], canvas.colour((60, 60, 62), (110, 108, 110)), ROAD)
    mark = canvas.colour((190, 190, 185), (235, 235, 230))
    for near in (0.15, 0.3, 0.5, 0.8):
        far = near * 0.82
        y_near, y_far = (horizon + (height - horizon) * depth for depth in (near, far))
        thick = width * 0.008
        points = [(vanishing - thick * far, y_far), (vanishing + thick * far, y_far)]
        points += [(vanishing + thick * near, y_near), (vanishing - thick * near, y_near)]
        canvas.polygon(points, mark, ROAD)


def _object(canvas: _Canvas, horizon: float, vanishing: float, depth: float) -> None:
    """A pole, a sign on its pole, a car or a pedestrian; ``depth`` is 0 at the horizon and 1 at the camera."""
    rng, (height, width) = canvas.rng, canvas.size
    foot = horizon + (height - horizon) * depth
    side = 1 if rng.random() < 0.5 else -1
    kerb = vanishing + side * width * 0.5 * depth
    kind = rng.choice(["pole", "sign", "car", "pedestrian"], p=[0.3, 0.25, 0.25, 0.2])
    if kind == "car":
        _car(canvas, vanishing + side * width * rng.uniform(0.1, 0.32) * depth, foot, height * 0.22 * depth)
        return
    x = kerb + side * width * rng.uniform(0.0, 0.25) * depth
    if kind == "pedestrian":
        _pedestrian(canvas, x, foot, height * 0.3 * depth)
        return
    tall = height * (rng.uniform(0.5, 0.8) if kind == "pole" else rng.uniform(0.3, 0.45)) * depth
    thick = max(0.0, width * 0.012 * depth - 1)
    grey = canvas.colour((60, 60, 60), (150, 150, 150))
    canvas.rectangle((x - thick / 2, foot - tall, x + thick / 2, foot), grey, POLE)
    if kind == "sign":
        plate = max(1.5, height * 0.035 * depth)
        paint = [(200, 30, 30), (30, 60, 170), (215, 180, 30)][rng.integers(3)]
        shape = canvas.ellipse if rng.random() < 0.5 else canvas.rectangle
        shape((x - plate, foot - tall - plate, x + plate, foot - tall + plate), paint, SIGN)


def _car(canvas: _Canvas, x: float, foot: float, tall: float) -> None:
    long = tall * 1.3
    paint = canvas.colour((20, 20, 20), (220, 220, 220))
    canvas.rectangle((x - long * 0.75, foot - tall, x + long * 0.75, foot - tall * 0.45), paint, CAR)
    canvas.rectangle((x - long * 0.6, foot - tall * 0.9, x + long * 0.6, foot - tall * 0.55), (40, 50, 60), CAR)
    canvas.rectangle((x - long, foot - tall * 0.55, x + long, foot - tall * 0.12), paint, CAR)
    for wheel in (-0.65, 0.65):
        radius = tall * 0.2
        centre = x + wheel * long
        canvas.ellipse((centre - radius, foot - 2 * radius, centre + radius, foot), (25, 25, 25), CAR)


def _pedestrian(canvas: _Canvas, x: float, foot: float, tall: float) -> None:
    coat, legs = canvas.colour((20, 20, 20), (200, 120, 120)), canvas.colour((15, 15, 25), (90, 90, 120))
    canvas.rectangle((x - tall * 0.1, foot - tall * 0.5, x + tall * 0.1, foot), legs, PEDESTRIAN)
    canvas.rectangle((x - tall * 0.14, foot - tall * 0.85, x + tall * 0.14, foot - tall * 0.4), coat, PEDESTRIAN)
    radius = tall * 0.08
    canvas.ellipse((x - radius, foot - tall, x + radius, foot - tall + 2 * radius), (205, 160, 130), PEDESTRIAN)


def _rounded(box: _Box) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(edge) for edge in box)
    return left, top, max(left, right), max(top, bottom)
