"""The confusion matrix, filled frame by frame, and the figures that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engines.parity.metrics import confusion_counts, ious
from smp_deploy.datasets.base import DatasetInfo

__all__ = ["ConfusionMatrix", "confusion_counts", "ious", "mean_of_defined"]


def mean_of_defined(values: NDArray[np.float64]) -> float:
    """The mean of the values that are not NaN; NaN when there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


@dataclass
class ConfusionMatrix:
    """Pixels by true class (row) and predicted class (column); constant memory for any number of frames."""

    info: DatasetInfo
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        classes = len(self.info.classes)
        self.counts = np.zeros((classes, classes), dtype=np.int64)

    def add(self, prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> NDArray[np.int64]:
        """Count one frame, or several; the counts of these alone are returned."""
        counts = confusion_counts(prediction, truth, len(self.info.classes), self.info.ignore_id)
        self.counts += counts
        return counts

    @property
    def class_ious(self) -> NDArray[np.float64]:
        """IoU of each class in [0, 1], NaN where undefined."""
        return ious(self.counts)

    @property
    def mean_iou(self) -> float:
        """Mean over the classes that occur."""
        return mean_of_defined(self.class_ious)

    @property
    def thin_iou(self) -> float:
        """Mean over the small and thin classes (Tables 3 and 4); NaN for a dataset that names none."""
        return mean_of_defined(self.class_ious[list(self.info.thin)])

    @property
    def pixel_accuracy(self) -> float:
        """The part of the pixels whose class is right, in [0, 1]."""
        total = self.counts.sum()
        return float(np.diag(self.counts).sum() / total) if total else float("nan")
