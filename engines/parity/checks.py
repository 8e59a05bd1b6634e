"""What is asked of a bundle, and the checks that answer it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from engines.bundle.records import Check, Figure, Kind, Quantity, Status
from engines.errors import BackendError, OutOfMemory
from engines.schedules.schedule import Precision


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is measured on what, and what it is held to. The fields are those of :class:`Check`.

    It has three answers: a figure; that something it needs is absent; that it began and broke, which is a failure.
    """

    kind: Kind
    name: str
    subject: str
    quantity: Quantity
    tolerance: float
    graph: str | None = None
    hop: tuple[str, str] | None = None
    precision: Precision | None = None

    @classmethod
    def of_hop(
        cls,
        source: str,
        target: str,
        subject: str,
        tolerance: float,
        *,
        graph: str | None,
        quantity: Quantity = Quantity.LOGIT_ERROR,
        precision: Precision = Precision.FP32,
    ) -> Question:
        """A hop of the chain, ``source -> target``."""
        return cls(
            kind=Kind.HOP,
            name=f"{source} -> {target}",
            subject=subject,
            quantity=quantity,
            tolerance=tolerance,
            graph=graph,
            hop=(source, target),
            precision=precision,
        )

    def held_to(self, tolerance: float) -> Question:
        """The same question with another tolerance."""
        return replace(self, tolerance=tolerance)

    def measured(self, value: float, detail: str = "") -> Check:
        """Passed or failed by its figure; NaN fails."""
        good = self.quantity.within(value, self.tolerance)
        return self._check(Status.PASSED if good else Status.FAILED, value, detail)

    def not_run(self, reason: str) -> Check:
        """What the measurement needs is absent: a GPU, a package, memory."""
        return self._check(Status.NOT_RUN, None, reason)

    def broke(self, message: object) -> Check:
        """The measurement began and ended in an error: a failure without a figure."""
        return self._check(Status.FAILED, None, f"broke: {message}")

    def misshapen(self, received: tuple[int, ...], expected: tuple[int, ...]) -> Check:
        """What was to be compared has another shape: a failure without a figure, located in the graph."""
        check = self._check(Status.FAILED, None, f"gives {received} where {expected} are expected")
        return check.located(f"{self.graph}: its output has another shape") if self.graph else check

    def ended(self, error: BackendError) -> Check:
        """By an error of the runtime: memory was absent, or the work broke."""
        return self.not_run(str(error)) if isinstance(error, OutOfMemory) else self.broke(error)

    def _check(self, status: Status, value: float | None, detail: str) -> Check:
        return Check(
            kind=self.kind,
            name=self.name,
            subject=self.subject,
            status=status,
            quantity=self.quantity,
            value=None if value is None else Figure(value),
            tolerance=Figure(self.tolerance),
            graph=self.graph,
            hop=self.hop,
            precision=self.precision,
            detail=detail,
        )
