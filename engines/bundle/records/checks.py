"""The record of a check, and of what it is held to."""

from __future__ import annotations

import enum

import msgspec

from engines.bundle.records.codec import Figure, Record
from engines.schedules.schedule import Precision


class Status(enum.Enum):
    """How a check ended. One that could not run is never counted as passed."""

    PASSED = "passed"
    FAILED = "failed"
    """Outside its tolerance, or it began and broke."""
    NOT_RUN = "not run"
    """What it needs is absent."""


class Kind(enum.Enum):
    """What a check is about."""

    LAYOUT = "layout"
    INPUT = "input"
    PRECISION = "precision"
    PROVENANCE = "provenance"
    HOP = "hop"
    MAGNITUDE = "magnitude"
    SUB_BATCH = "sub-batch"
    LABELS = "labels"
    MEAN_IOU = "mean IoU"


class Quantity(enum.Enum):
    """What a check measures."""

    LOGIT_ERROR = "relative error of logits"
    """Largest absolute error relative to the largest logit, logits being taken relative to their mean over classes."""
    ROUNDING = "relative error of logits, at least"
    """As :attr:`LOGIT_ERROR`, where too small a one shows that a coarser arithmetic was not used."""
    PROBABILITY_ERROR = "relative error of probabilities"
    INPUT_ERROR = "relative error of the normalised frame"
    LABEL_AGREEMENT = "label agreement"
    """Share of pixels with the same label, in [0, 1], ties aside as far as they are forgiven."""
    WRONG_LABELS = "share of labels that are not the largest logit's"
    MISPLACED_PIXELS = "pixels at another place"
    MEAN_IOU_CHANGE = "change of the mean IoU, points"
    LARGEST_MAGNITUDE = "largest magnitude in fp32"
    NOT_FINITE = "tensors that are not finite"
    OTHER_TYPES = "layers that compute in another type"
    WEIGHT_ERROR = "largest error of a weight, steps of its type"
    """A step is the distance of neighbouring numbers: a unit in the last place, or a scale of int8."""
    SCALE_RATIO = "largest ratio of a scale to what its range needs"
    OWN_ERROR = "largest own error of an operator, steps of its type"
    """Of what it gives for the inputs that it had, without what summing in another order may change."""
    CUT_OFF = "largest share of an activation that is cut off"
    OTHER_HASHES = "hashes that are not the bundle's"

    def within(self, value: float, tolerance: float) -> bool:
        """Whether a value is good: at most the tolerance, or at least for a share that agrees; NaN never is."""
        at_least = self in (Quantity.LABEL_AGREEMENT, Quantity.ROUNDING)
        return value >= tolerance if at_least else value <= tolerance


class Check(Record, frozen=True, kw_only=True):
    """One figure against its tolerance. Made by :class:`engines.parity.checks.Question`."""

    kind: Kind
    name: str
    """For people, as ``subject``, ``detail`` and ``location`` are: nothing is selected by their words."""
    subject: str
    """On what it was made: which frame, which phases."""
    status: Status
    quantity: Quantity
    value: Figure | None
    """``None`` where nothing was measured."""
    tolerance: Figure
    graph: str | None = None
    """File of the bundle that is judged."""
    hop: tuple[str, str] | None = None
    """From what to what, where it is a hop of the chain."""
    precision: Precision | None = None
    """Whose tolerance it is held to."""
    detail: str = ""
    """Why it did not run, what broke, or further figures."""
    location: str = ""
    """Where a failure begins: a layer, a phase, or a file."""

    def __post_init__(self) -> None:
        """Raise ``ValueError``, which msgspec passes on as its own, where the status contradicts the figures."""
        good = self.value is not None and self.quantity.within(self.value, self.tolerance)
        wrong = {
            Status.PASSED: not good,
            Status.FAILED: good,
            Status.NOT_RUN: self.value is not None,
        }
        if wrong[self.status]:
            raise ValueError(
                f"the check {self.name!r} says {self.status.value} of {self.value}, tolerance {self.tolerance}"
            )

    @property
    def failed(self) -> bool:
        """Whether it ran and is outside its tolerance, or broke."""
        return self.status is Status.FAILED

    @property
    def words(self) -> str:
        """Where it fails, what was measured, and the details, in one line."""
        where = f"in {self.location}" if self.location else ""
        return "; ".join(filter(None, (where, self.quantity.value, self.detail)))

    def located(self, location: str) -> Check:
        """The same check, with the place where its failure begins."""
        return msgspec.structs.replace(self, location=location)


class Tolerance(Record, frozen=True, kw_only=True):
    """What a precision may change. A change of layout may change nothing."""

    logits: float
    """Largest absolute error of a logit, relative to the largest logit beside the mean over the classes."""
    label_agreement: float
    """Share of pixels with the same label, ties aside."""
    ties: float
    """Share of pixels that may be ties: with more, the comparison says nothing."""
    sub_batch: float = 1e-3
    """As ``logits``, between sub-batches that hold the same phase."""
    mean_iou: float = 0.1
    """Change of the mean IoU on labelled frames, in points (hundredths)."""
    absolute: float = 0.0
    """Absolute error of a logit that is allowed on top of ``logits``."""

    @property
    def of_ties(self) -> float:
        """The ``logit_tolerance`` of :func:`engines.parity.comparison.label_agreement`: none where none is forgiven."""
        return self.logits if self.ties else 0.0

    def of_logits(self, scale: float) -> float:
        """The bound for a relative error of logits whose largest magnitude is ``scale``."""
        return self.logits + (self.absolute / scale if scale > 0 else 0.0)
