"""What an executor is: frames in, predictions of phases out, at one schedule.

A session loads a frame once and then asks for its sub-batches. ``submit`` may return before the work is done, so that
the host merges one sub-batch while the device computes the next, and uploads one frame while another is computed::

    frame = executor.load(image)
    pending = frame.submit(phases)
    predictions = pending.collect()

Executors may be used from several threads; a loaded frame belongs to one thread at a time.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import BackendError
from engines.schedules.phases import Phase

if TYPE_CHECKING:
    from typing_extensions import Self


class PendingPhases(abc.ABC):
    """A sub-batch under way."""

    @abc.abstractmethod
    def collect(self) -> NDArray[Any]:
        """Wait for the predictions ``(phases, ..., i, j)``; the caller's own array. To be called once.

        Raises :class:`BackendError` when the work failed or the executor was closed meanwhile.
        """


class LoadedFrame(abc.ABC):
    """A frame that an executor has prepared, or will prepare on the first sub-batch."""

    @abc.abstractmethod
    def submit(self, phases: list[Phase]) -> PendingPhases:
        """Begin one sub-batch. Phases that go together share their inner offsets.

        Raises :class:`BackendError` when the runtime refuses it or the executor is closed.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """The frame is no longer needed; harmless when called again, or after the executor was closed."""


class Executor(abc.ABC):
    """An open backend at one schedule. A context manager: closing it gives all of its memory back."""

    in_flight: int = 1
    """Sub-batches of a frame that are worth submitting before the first is collected."""

    @abc.abstractmethod
    def load(self, image: NDArray[np.uint8]) -> LoadedFrame:
        """Take a frame, ``(H, W, 3)`` uint8 of the right size. The array may change as soon as this returns."""

    @abc.abstractmethod
    def memory(self) -> Mapping[str, int]:
        """Bytes that were allocated for the schedule, by what for. Empty where the runtime keeps that to itself."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the work is done, in sentences."""
        return ()

    @abc.abstractmethod
    def close(self) -> None:
        """Give everything back; harmless on a closed executor. Work under way is awaited first."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def closed_error() -> BackendError:
    """What every call on a closed executor raises."""
    return BackendError("the session is closed")
