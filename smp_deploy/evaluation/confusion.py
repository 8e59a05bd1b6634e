"""The confusion matrix, filled frame by frame, and the figures that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engines.errors import LayoutError
from smp_deploy.datasets.base import DatasetInfo


def confusion_counts(
    prediction: NDArray[np.integer], truth: NDArray[np.integer], classes: int, ignore_id: int
) -> NDArray[np.int64]:
    """``(classes, classes)`` int64: how many pixels of true class ``row`` were predicted as class ``column``.

    Pixels whose truth is ``ignore_id`` count for nothing. Raises :class:`LayoutError` when the shapes differ or a
    prediction is no class number.
    """
    if prediction.shape != truth.shape:
        raise LayoutError(f"a prediction of shape {prediction.shape} cannot be judged by labels of {truth.shape}")
    valid = truth != ignore_id
    predicted, true = prediction[valid].astype(np.int64), truth[valid].astype(np.int64)
    for name, values in (("prediction", predicted), ("label", true)):
        if values.size and not (values.min() >= 0 and values.max() < classes):
            raise LayoutError(
                f"a {name} lies outside the class numbers 0 to {classes - 1}: {values.min()} to {values.max()}"
            )
    return np.bincount(true * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def ious(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Intersection over union of each class, in [0, 1]; NaN for a class that neither truth nor prediction has."""
    intersection = np.diag(counts).astype(np.float64)
    union = counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    result = np.full(len(counts), np.nan)
    np.divide(intersection, union, out=result, where=union > 0)
    return result


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
