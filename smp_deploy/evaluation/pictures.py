"""Pictures of the best and worst frames: frame, prediction, truth and what is wrong, next to each other."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engines.bundle.gate import write_file
from smp_deploy.datasets.base import Dataset, DatasetInfo, Example
from smp_deploy.evaluation.evaluate import Evaluation, FrameScore
from smp_deploy.evaluation.predictors import Predictor

_OPACITY = 0.6
_IGNORED = (0, 0, 0)
_WRONG = (255, 40, 40)


def write_extremes(
    evaluation: Evaluation, predictor: Predictor, dataset: Dataset, directory: Path, *, replace: bool = False
) -> list[Path]:
    """``best-1-<name>.png`` and ``worst-1-<name>.png`` and so on; the frames are predicted once more.

    Each is whole or absent. Raises :class:`OutputError` when one cannot be written, or is there already and
    ``replace`` is false.
    """
    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, scores in (("best", evaluation.best), ("worst", evaluation.worst)):
        for place, score in enumerate(scores, start=1):
            path = directory / f"{kind}-{place}-{score.name}.png"
            encoded = io.BytesIO()
            _picture(score, predictor, dataset).save(encoded, format="png")
            write_file(path, encoded.getvalue(), replace=replace)
            paths.append(path)
    return paths


def _picture(score: FrameScore, predictor: Predictor, dataset: Dataset) -> Image.Image:
    example = dataset.load(score.index)
    return judged(example, predictor.predict(example.image), dataset.info)


def judged(example: Example, prediction: NDArray[np.uint8], info: DatasetInfo) -> Image.Image:
    """Frame, prediction over it, truth over it, errors in red: a strip of ``(H, 4 * W)`` pixels."""
    wrong = (prediction != example.labels) & (example.labels != info.ignore_id)
    grey = np.repeat(example.image.mean(axis=2, keepdims=True), 3, axis=2) * 0.6
    grey[wrong] = _WRONG
    shown = np.where(example.labels == info.ignore_id, info.ignore_id, prediction).astype(np.uint8)
    panels = [
        example.image,
        _over(example.image, shown, info),
        _over(example.image, example.labels, info),
        grey.astype(np.uint8),
    ]
    return Image.fromarray(np.hstack(panels))


def _over(image: NDArray[np.uint8], labels: NDArray[np.uint8], info: DatasetInfo) -> NDArray[np.uint8]:
    table = np.zeros((256, 3))
    table[: len(info.colours)] = info.colours
    table[info.ignore_id] = _IGNORED
    return (image * (1 - _OPACITY) + table[labels] * _OPACITY).round().astype(np.uint8)
