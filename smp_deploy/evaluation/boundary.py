"""Boundary IoU (Cheng et al. 2021): how well the outlines of each class agree, whatever its size.

Of every class, only the pixels of truth and prediction within a distance ``d`` of that class's own outline are
compared. Thin objects lie within it whole, large ones with their rims alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engines.errors import LayoutError
from smp_deploy.datasets.base import DatasetInfo
from smp_deploy.evaluation.confusion import mean_of_defined

RELATIVE_DISTANCE = 0.005
"""The distance as a part of the frame's diagonal: 3 pixels at 360x480, 11 at 1024x2048."""


def boundary_distance(size: tuple[int, int]) -> int:
    """Pixels from the outline that count, for frames of ``(height, width)``; at least 1."""
    return max(1, round(RELATIVE_DISTANCE * math.hypot(*size)))


def boundary(mask: NDArray[np.bool_], distance: int) -> NDArray[np.bool_]:
    """The pixels of a mask ``(H, W)`` with a pixel outside it, or the frame's edge, within ``distance``.

    Distance is the larger of rows and columns: an erosion with a square of ``2 * distance + 1``.
    """
    padded = np.pad(mask, distance).astype(np.int32)
    side = 2 * distance + 1
    sums = np.pad(padded.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    rim: NDArray[np.bool_] = mask & (inside < side * side)
    return rim


@dataclass
class BoundaryCounts:
    """Intersections and unions of the boundary regions, summed over frames; constant memory.

    Where the truth is ignored, truth and prediction are taken to be of no class: both end there, at the same
    place, and a prediction that agrees on what is labelled is not charged for the rim of what is not.
    """

    info: DatasetInfo
    intersection: NDArray[np.int64] = field(init=False)
    union: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.intersection = np.zeros(len(self.info.classes), dtype=np.int64)
        self.union = np.zeros(len(self.info.classes), dtype=np.int64)

    def add(self, prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
        """Count one frame: ``(H, W)`` class numbers each."""
        if prediction.shape != truth.shape:
            raise LayoutError(f"a prediction of shape {prediction.shape} cannot be judged by labels of {truth.shape}")
        distance = boundary_distance((truth.shape[0], truth.shape[1]))
        valid = truth != self.info.ignore_id
        for number in range(len(self.info.classes)):
            true, predicted = (truth == number), (prediction == number) & valid
            if not (true.any() or predicted.any()):
                continue
            true_rim, predicted_rim = boundary(true, distance), boundary(predicted, distance)
            self.intersection[number] += int((true_rim & predicted_rim).sum())
            self.union[number] += int((true_rim | predicted_rim).sum())

    @property
    def class_ious(self) -> NDArray[np.float64]:
        """Boundary IoU of each class in [0, 1], NaN where undefined."""
        result = np.full(len(self.union), np.nan)
        np.divide(self.intersection, self.union, out=result, where=self.union > 0)
        return result

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur."""
        return mean_of_defined(self.class_ious)
