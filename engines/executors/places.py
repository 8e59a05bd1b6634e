"""The few places that frames and predictions have, and whom they belong to at the moment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines.devices.base import Event, Execution, pinned_array

if TYPE_CHECKING:
    from engines.executors.device import DeviceFrame, PendingOnDevice


@dataclass(eq=False)
class FramePlace:
    """Memory for one frame, on both sides, and for its planes."""

    pinned: int
    shape: tuple[int, ...]
    """Of the frame, uint8 ``(H, W, 3)``."""
    frame: int
    planes: int
    prepare: Execution
    uploaded: Event
    """Behind the latest upload: the pinned memory may change."""
    consumed: Event
    """Behind the latest prepare: the frame on the device may change."""
    owner: DeviceFrame | None = None
    used: int = 0
    prepared: bool = False
    view: NDArray[np.uint8] = field(init=False)
    """The pinned memory as an array."""

    def __post_init__(self) -> None:
        self.view = pinned_array(self.pinned, np.dtype(np.uint8), self.shape)


@dataclass(eq=False)
class PredictionPlace:
    """Pinned memory for the predictions of one sub-batch."""

    pinned: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    """Of the largest sub-batch."""
    done: Event
    owner: PendingOnDevice | None = None
    used: int = 0
    _view: NDArray[Any] = field(init=False)

    def __post_init__(self) -> None:
        self._view = pinned_array(self.pinned, self.dtype, self.shape)

    def size_of(self, phases: int) -> int:
        """Bytes of the predictions of so many phases."""
        return self._view[:phases].nbytes

    def taken(self, phases: int) -> NDArray[Any]:
        """The predictions of so many phases, the caller's own."""
        return self._view[:phases].copy()
