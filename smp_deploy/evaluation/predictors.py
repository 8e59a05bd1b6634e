"""What can be evaluated: anything that labels a frame; here, a checkpoint in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.schedules.anytime import NearestFill
from engines.schedules.phases import Phase, Size, dispersed, padded_size

if TYPE_CHECKING:
    from torch import Tensor, nn

    from engines.session import Session


class Predictor(Protocol):
    """Labels a frame: a session on a bundle, or a network in PyTorch."""

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 RGB in [0, 255] -> ``(H, W)`` uint8 class numbers."""


class NetworkPredictor:
    """A segmentation network in PyTorch, at full resolution.

    A network of pooling layers is walked in the phases of the levels that repeat no work (for SMP-X the 4x4 of its
    first two splits), one at a time: memory stays bounded. Any other is computed at once.

    Frames of any size: sides that are no multiple of what the network needs are padded right and bottom with zeros
    after normalisation, and the prediction is cropped.

    Args:
        network: maps ``(n, 3, H, W)`` to logits ``(n, classes, H, W)``, with at most 256 classes; it is left in
            evaluation mode.
        phases: how many of the phases are computed, in dispersed order; the other pixels take the label of the nearest
            one that is. By default all: that is the whole network.
        device: where the network is put.

    Raises :class:`InputError` for more phases than there are, :class:`~engines.errors.NetworkError` where the network
    cannot be traced.
    """

    def __init__(self, network: nn.Module, *, phases: int | None = None, device: str = "cpu") -> None:
        from converters.analysis.levels import total_window
        from converters.analysis.network import traced_network
        from converters.rewriting.sampling import sampled_from_network

        self._traced = traced_network(network.eval().to(device), shared=True)
        self._network = sampled_from_network(self._traced)
        self.window = total_window(self._network.windows)
        """The pooling window of the walk; ``(1, 1)`` where everything is computed at once."""
        total = self.window[0] * self.window[1]
        if phases is not None and total == 1:
            raise InputError(f"{type(network).__name__} has no phases to walk: it computes all its pixels at once")
        if phases is not None and not 1 <= phases <= total:
            raise InputError(f"1 to {total} phases can be computed; received {phases}")
        self._phases = dispersed(self.window)[:phases]
        self._device = device

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Label one frame."""
        height, width = image.shape[:2]
        return labels_from_phases(self.phase_labels(image), self.window)[:height, :width]

    def phase_labels(self, image: NDArray[np.uint8]) -> dict[Phase, NDArray[np.uint8]]:
        """The labels ``(H/h, W/w)`` uint8 of the padded frame at each computed phase, in the order of computing."""
        import torch

        self._follow((image.shape[0], image.shape[1]))
        with torch.inference_mode():
            x = self._planes(image)
            return {phase: self._phase(x, phase) for phase in self._phases}

    def _follow(self, size: Size) -> None:
        """Take the form of the network for frames of a size: another one where it decides by shapes."""
        from converters.rewriting.sampling import sampled_from_network

        traced = self._traced.at(padded_size(size, self._traced.size_multiple))
        if traced is not self._traced:
            self._traced, self._network = traced, sampled_from_network(traced)

    def _planes(self, image: NDArray[np.uint8]) -> Tensor:
        from smp_deploy.training.augment import padded_to, planes_from_image

        size = padded_size((image.shape[0], image.shape[1]), self._traced.size_multiple)
        return padded_to(planes_from_image(image), size)[None].to(self._device)

    def _phase(self, x: Tensor, phase: Phase) -> NDArray[np.uint8]:
        from converters.reference import level_offsets

        logits = self._network.logits(x, level_offsets(list(self._network.windows), phase))
        labels = self._network.merged(logits.argmax(1, keepdim=True))
        return labels[0, 0].cpu().numpy().astype(np.uint8)


def labels_from_phases(maps: Mapping[Phase, NDArray[np.uint8]], window: Size) -> NDArray[np.uint8]:
    """The full map ``(H, W)`` from the labels ``(H/h, W/w)`` of some phases of a window, at least one.

    Pixels of other phases take the label of the nearest pixel that has one.
    """
    fill = NearestFill(window)
    fill.add(list(maps))
    (h, w), (rows, columns) = window, next(iter(maps.values())).shape
    labels = np.zeros((rows * h, columns * w), dtype=np.uint8)
    for (row, column), known in maps.items():
        labels[row::h, column::w] = known
    return np.asarray(fill.filled(labels), np.uint8)


class BundlePredictor:
    """A session on a bundle that computes some of its phases.

    Args:
        session: open, on a bundle of labels.
        phases: how many, in dispersed order; the other pixels take the label of the nearest one that is computed.
    """

    def __init__(self, session: Session, phases: int) -> None:
        total = len(session.grid.phases)
        if not 1 <= phases <= total:
            raise InputError(f"the schedule has {total} phases; {phases} of them cannot be computed")
        self._session = session
        self._phases = phases

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Label one frame, with whole sub-batches of at least so many phases."""
        # Closed, or the session would be held by it.
        with closing(self._session.refine(image)) as refinements:
            done = next(step for step in refinements if step.phases_done >= self._phases)
        return np.asarray(done.prediction, np.uint8)
