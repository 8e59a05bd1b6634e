"""What an executor is: frames in, their merged predictions out, phase by phase, at one schedule.

An executor has a few slots for frames and as many for sub-batches, named by number from 0, and whoever uses it says
which one. ``submit`` may return before the work is done: so one sub-batch is queued while the device computes another,
and one frame is uploaded while another is computed::

    executor.load(image, 0)
    executor.submit(0, first_phases, 0)
    executor.submit(0, second_phases, 1)
    executor.load(next_image, 1)
    executor.wait(0)
    executor.wait(1)
    labels = executor.result(0)

An executor is used by one thread at a time, which need not be the same one every time.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines.errors import BackendError
from engines.schedules.phases import Phase, PhaseGrid

if TYPE_CHECKING:
    from typing_extensions import Self


class Executor(abc.ABC):
    """An open backend at one schedule. A context manager: closing it gives all of its memory back.

    Predictions are those of a trunk: labels ``(H, W)`` uint8, or ``(classes, H, W)`` float32.

    Everything but :meth:`memory`, :attr:`notes`, :meth:`unload` and :meth:`close` raises :class:`BackendError` when the
    runtime refuses the work, or on a closed executor, and :class:`OutOfMemory` for want of memory. It can be used on
    after that.
    """

    grid: PhaseGrid
    """The phases of its schedule."""
    slots: int = 1
    """So many frames, and so many sub-batches, have a place at a time. With one, nothing is ever ahead."""

    @abc.abstractmethod
    def load(self, image: NDArray[np.uint8], slot: int) -> None:
        """Take a frame, ``(H, W, 3)`` uint8 of the right size. The array may change as soon as this returns.

        The frame that was in the slot is given up, with its sub-batches that nobody waited for.
        """

    @abc.abstractmethod
    def submit(self, frame_slot: int, phases: list[Phase], slot: int) -> None:
        """Begin one sub-batch of a loaded frame, whose predictions are merged with those that the frame has.

        Phases that go together share their inner offsets. What was in the slot and was not waited for is given up.
        """

    @abc.abstractmethod
    def wait(self, slot: int) -> None:
        """Return when the sub-batch is computed. To be called once for each."""

    @abc.abstractmethod
    def merged(self, frame_slot: int) -> NDArray[Any]:
        """What is merged of a frame, ``(..., *padded_size)``, where pixels of other phases hold anything.

        It may be the executor's own memory, to be read until another sub-batch is submitted or the frame is unloaded.
        """

    @abc.abstractmethod
    def result(self, frame_slot: int) -> NDArray[Any]:
        """The prediction of a frame whose phases are all computed, ``(..., *frame_size)``: the caller's own."""

    @abc.abstractmethod
    def unload(self, slot: int) -> None:
        """The frame in the slot is no longer needed; harmless where there is none."""

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
    """What every call on a closed executor, or on a closed session, raises."""
    return BackendError("the session is closed")


def nothing_merged(frame_slot: int) -> BackendError:
    """What asking for the predictions of a frame raises before it has any."""
    return BackendError(f"nothing is computed of a frame in slot {frame_slot}")


def check_predictions(grid: PhaseGrid, shape: tuple[int, ...], phases: int) -> None:
    """Raises :class:`BackendError` unless a trunk's output has one prediction for each pixel of each phase."""
    if shape[0] != phases or shape[-2:] != grid.phase_size:
        # numpy would spread a smaller result over the phase.
        raise BackendError(f"the trunk gave {shape} for {phases} phases of {grid.phase_size}")
