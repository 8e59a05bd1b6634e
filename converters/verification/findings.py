"""What the checks have seen beside their verdicts: for the report, and for other tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from converters.verification.agreements import Agreement, ComparedLabels
from converters.verification.magnitudes import Magnitudes
from engines.bundle.records import ClassChange, ClassFigures, Figure, LabelFigures, LayerFigures, OverlayName
from engines.parity.validation import ValidationFigures
from engines.schedules.phases import Size
from engines.schedules.schedule import Precision

_MOST_OVERLAYS = 5


@dataclass(frozen=True, eq=False)
class Findings:
    """Figures by layer, phase and class, and what they were made from."""

    window: Size
    """Of the default trunk's phases."""
    magnitudes: Magnitudes
    errors: Mapping[Precision, Mapping[str, float]]
    """By layer: see :func:`converters.verification.locating.layer_errors`."""
    agreements: Mapping[Precision, Agreement]
    compared: Sequence[ComparedLabels]
    feeds: list[dict[str, NDArray[np.generic]]]
    """Inputs of the default trunk, a frame each."""
    outputs: dict[str, list[dict[str, NDArray[np.generic]]]]
    """By precision: what the default trunk gave for the feeds."""

    @property
    def overlays(self) -> Sequence[ComparedLabels]:
        """The labels that are kept for pictures."""
        return self.compared[:_MOST_OVERLAYS]

    def figures(self, classes: Sequence[str]) -> ValidationFigures:
        """The part of it that a record holds."""
        return ValidationFigures(
            self.window,
            self._layers(),
            {precision: _label_figures(found, classes) for precision, found in self.agreements.items()},
            [OverlayName(name=labels.frame.name, precision=labels.precision) for labels in self.overlays],
        )

    def _layers(self) -> list[LayerFigures]:
        tensors = dict.fromkeys(name for held in self.magnitudes.values() for name in held)
        exact = self.magnitudes.get(Precision.FP32, {})
        others = {precision: held for precision, held in self.magnitudes.items() if precision is not Precision.FP32}
        return [
            LayerFigures(
                name=name,
                magnitude=Figure(exact.get(name, 0.0)),
                largest={precision: Figure(held[name]) for precision, held in others.items() if name in held},
                error={precision: Figure(held[name]) for precision, held in self.errors.items() if name in held},
            )
            for name in tensors
        ]


def _label_figures(found: Agreement, classes: Sequence[str]) -> LabelFigures:
    return LabelFigures(
        pixels=found.pixels,
        differing=found.differing,
        ties=found.ties,
        near=found.near,
        near_differing=found.near_differing,
        by_phase=None if found.by_phase is None else found.by_phase.tolist(),
        error_by_phase=None
        if found.error_by_phase is None
        else [[Figure(value) for value in row] for row in found.error_by_phase.tolist()],
        classes=[
            ClassFigures(name=name, pixels=int(row.sum()), agreeing=int(row[index]))
            for index, (name, row) in enumerate(zip(classes, found.confusion, strict=True))
        ],
        changes=_changes(found.confusion, classes),
    )


def _changes(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[ClassChange]:
    """Which classes became which, the most frequent first."""
    off = confusion - np.diag(np.diag(confusion))
    order = np.argsort(-off, axis=None, kind="stable")[: int((off > 0).sum())]
    pairs = (np.unravel_index(int(place), off.shape) for place in order)
    return [ClassChange(before=classes[int(a)], to=classes[int(b)], pixels=int(off[a, b])) for a, b in pairs]
