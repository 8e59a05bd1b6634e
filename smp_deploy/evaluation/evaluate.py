"""Walking a dataset with a predictor: full-size frames one by one, in constant memory."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError, LayoutError
from engines.schedules.schedule import Schedule
from smp_deploy.datasets.base import Dataset, DatasetInfo, Example
from smp_deploy.evaluation.boundary import BoundaryCounts
from smp_deploy.evaluation.confusion import ConfusionMatrix, ious, mean_of_defined
from smp_deploy.evaluation.predictors import Predictor

Advance = Callable[[int, int], None]


@dataclass(frozen=True, order=True)
class FrameScore:
    """Mean IoU of one frame, over the classes that occur in its labels or its prediction."""

    mean_iou: float
    index: int
    name: str = field(compare=False)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    info: DatasetInfo
    frames: int
    confusion: ConfusionMatrix
    boundary: BoundaryCounts
    worst: tuple[FrameScore, ...]
    """The frames with the lowest mean IoU, worst first."""
    best: tuple[FrameScore, ...]
    """The frames with the highest, best first."""
    seconds: float
    """Wall-clock time of the predictions alone."""
    schedule: Schedule | None = None
    """Of a bundle: what ran. ``None`` for what has no schedules."""


def evaluation_of(
    predictor: Predictor,
    dataset: Dataset,
    *,
    extremes: int = 3,
    limit: int | None = None,
    on_progress: Advance | None = None,
) -> Evaluation:
    """Judge a predictor by the frames of a dataset, neither resized nor cropped.

    Args:
        predictor: labels frames.
        dataset: whose classes the predictor's labels mean.
        extremes: how many of the best and of the worst frames to name.
        limit: only the first so many frames.
        on_progress: called with ``(done, total)`` after every frame.

    Raises:
        InputError: the dataset has no frame, or ``limit`` is below 1.
        LayoutError: the predictor gives another size, or labels that are no class; the frame is named.
    """
    if limit is not None and limit < 1:
        raise InputError(f"at least 1 frame is evaluated; received a limit of {limit}")
    total = len(dataset) if limit is None else min(limit, len(dataset))
    if not total:
        raise InputError(f"{dataset.info.name}: there is no frame to evaluate")
    confusion, rims = ConfusionMatrix(dataset.info), BoundaryCounts(dataset.info)
    worst: list[tuple[float, int, FrameScore]] = []
    best: list[tuple[float, int, FrameScore]] = []
    seconds = 0.0
    for index in range(total):
        example = dataset.load(index)
        started = time.perf_counter()
        prediction = predictor.predict(example.image)
        seconds += time.perf_counter() - started
        counts = _counted(confusion, prediction, example)
        rims.add(prediction, example.labels)
        score = FrameScore(mean_of_defined(ious(counts)), index, example.name)
        if not math.isnan(score.mean_iou):
            _keep(worst, (-score.mean_iou, -index, score), extremes)
            _keep(best, (score.mean_iou, -index, score), extremes)
        if on_progress is not None:
            on_progress(index + 1, total)
    return Evaluation(
        dataset.info,
        total,
        confusion,
        rims,
        tuple(entry[2] for entry in sorted(worst, reverse=True)),
        tuple(entry[2] for entry in sorted(best, reverse=True)),
        seconds,
    )


def _counted(confusion: ConfusionMatrix, prediction: NDArray[np.uint8], example: Example) -> NDArray[np.int64]:
    try:
        return confusion.add(prediction, example.labels)
    except LayoutError as error:
        raise LayoutError(f"{example.name}: {error}") from error


def _keep(heap: list[tuple[float, int, FrameScore]], entry: tuple[float, int, FrameScore], size: int) -> None:
    """Keep the ``size`` largest entries."""
    if len(heap) < size:
        heapq.heappush(heap, entry)
    elif size:
        heapq.heappushpop(heap, entry)
