"""Figures that say where two results differ: by phase, by class, near boundaries. Plain numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engines.errors import LayoutError
from engines.schedules.phases import Phase, Size


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


def by_phase(values: NDArray[np.floating] | NDArray[np.bool_], window: Size) -> NDArray[np.float64]:
    """The mean of a map ``(H, W)`` at every phase of a window: ``(h, w)``; NaN pixels count for nothing.

    A checkerboard here betrays an offset that is wrong: errors of arithmetic know nothing of phases.
    """
    h, w = window
    result = np.full(window, np.nan)
    for row in range(h):
        for column in range(w):
            part = np.asarray(values[row::h, column::w], np.float64)
            part = part[~np.isnan(part)]
            if part.size:
                result[row, column] = part.mean()
    return result


def near_boundaries(labels: NDArray[np.integer], distance: int = 2) -> NDArray[np.bool_]:
    """Pixels ``(H, W)`` with one of another class within ``distance`` rows or columns."""
    near = np.zeros(labels.shape, np.bool_)
    edges_down, edges_right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    near[1:] |= edges_down
    near[:-1] |= edges_down
    near[:, 1:] |= edges_right
    near[:, :-1] |= edges_right
    for _ in range(distance - 1):
        grown = near.copy()
        grown[1:] |= near[:-1]
        grown[:-1] |= near[1:]
        grown[:, 1:] |= near[:, :-1]
        grown[:, :-1] |= near[:, 1:]
        near = grown
    return near


def shift_of_labels(actual: NDArray[np.integer], expected: NDArray[np.integer], reach: int = 2) -> Phase | None:
    """By how many ``(rows, columns)`` the labels were moved; ``None`` where no small shift explains them.

    A shift explains them when what it leaves is at most a tenth of the disagreement.
    """
    best, found = float((actual != expected).mean()) / 10, None
    height, width = actual.shape
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            moved = actual[max(down, 0) : height + min(down, 0), max(right, 0) : width + min(right, 0)]
            original = expected[max(-down, 0) : height - max(down, 0), max(-right, 0) : width - max(right, 0)]
            if (down or right) and moved.size and float((moved != original).mean()) < best:
                best, found = float((moved != original).mean()), (down, right)
    return found


def exchanged_phases(
    actual: NDArray[np.floating], expected: NDArray[np.floating], windows: Sequence[Size], tolerance: float
) -> str | None:
    """What permutation of the phases explains a difference of ``(C, H, W)`` maps, in words; ``None`` for none.

    The windows of the first level, of the first two, and so on are tried, so the coarsest explanation is found
    first. ``tolerance`` is relative to the largest magnitude.
    """
    h = w = 1
    for levels, window in enumerate(windows, 1):
        h, w = h * window[0], w * window[1]
        if actual.shape[1] % h or actual.shape[2] % w or h * w > _MOST_PHASES:
            return None
        sources = _sources(actual, expected, (h, w), tolerance)
        if sources is not None:
            return _in_words(sources, list(windows[:levels]))
    return None


_MOST_PHASES = 1024


def _sources(
    actual: NDArray[np.floating], expected: NDArray[np.floating], window: Size, tolerance: float
) -> dict[Phase, Phase] | None:
    """Which phase of ``expected`` every phase of ``actual`` holds; ``None`` when one holds none, or all their own."""
    phases = [(row, column) for row in range(window[0]) for column in range(window[1])]
    bound = tolerance * float(np.abs(expected).max())
    held = {phase: np.ascontiguousarray(expected[:, phase[0] :: window[0], phase[1] :: window[1]]) for phase in phases}
    probe = {phase: values.ravel()[:: max(1, values.size // 64)] for phase, values in held.items()}
    sources: dict[Phase, Phase] = {}
    for phase in phases:
        values = actual[:, phase[0] :: window[0], phase[1] :: window[1]]
        few = values.ravel()[:: max(1, values.size // 64)]
        # The phase itself first: maps that are constant fit everywhere.
        for source in (phase, *phases):
            if np.abs(few - probe[source]).max() <= bound and np.abs(values - held[source]).max() <= bound:
                sources[phase] = source
                break
        else:
            return None
    return sources if any(phase != source for phase, source in sources.items()) else None


def _in_words(sources: dict[Phase, Phase], windows: list[Size]) -> str:
    phase, source = next((phase, source) for phase, source in sources.items() if phase != source)
    where = f"phase {phase} holds what belongs to phase {source}"
    if all(found == (column, row) for (row, column), found in sources.items()):
        return f"rows and columns of the phases are exchanged at level {len(windows)}: {where}"
    if len(windows) > 1 and all(found == _reversed(phase, windows) for phase, found in sources.items()):
        return f"the levels of the merges are in the wrong order: {where}"
    return f"phases are exchanged at level {len(windows)}: {where}"


def _reversed(phase: Phase, windows: list[Size]) -> Phase:
    """The phase whose digits, level by level, are those of ``phase`` from the last level to the first."""
    (row, column), digits = phase, []
    for h, w in windows:
        digits.append((row % h, column % w))
        row, column = row // h, column // w
    step_row = step_column = 1
    for (down, right), (h, w) in zip(reversed(digits), windows, strict=True):
        row, column = row + down * step_row, column + right * step_column
        step_row, step_column = step_row * h, step_column * w
    return row, column
