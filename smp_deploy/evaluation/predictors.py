"""What can be evaluated: anything that labels a frame; here, a checkpoint in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.errors import InputError
from engines.schedules.anytime import NearestFill
from engines.schedules.phases import Phase, dispersed, padded_size

if TYPE_CHECKING:
    from torch import Tensor

    from converters.networks import SegmentationNetwork
    from engines.session import Session

WINDOW = 4
"""An SMP network is walked in the 4x4 phases of its first two splits, one at a time: memory stays bounded."""


class Predictor(Protocol):
    """Labels a frame: a session on a bundle, or a network in PyTorch."""

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 RGB in [0, 255] -> ``(H, W)`` uint8 class numbers."""


class NetworkPredictor:
    """A segmentation network in PyTorch, at full resolution.

    Frames of any size: sides that are no multiple of 32 are padded right and bottom with zeros after
    normalisation, and the prediction is cropped.

    Args:
        network: in evaluation mode.
        phases: SMP: how many of the 16 phases are computed, in dispersed order; the other pixels take the label of
            the nearest one that is. 16 is the whole network.
        device: where the network is.
    """

    def __init__(self, network: SegmentationNetwork, *, phases: int = WINDOW * WINDOW, device: str = "cpu") -> None:
        from converters.networks import SMP

        if not 1 <= phases <= WINDOW * WINDOW:
            raise InputError(f"1 to {WINDOW * WINDOW} phases can be computed; received {phases}")
        if phases < WINDOW * WINDOW and not isinstance(network, SMP):
            raise InputError(f"only SMP networks have phases; {type(network).__name__} computes all its pixels at once")
        self._network = network.eval().to(device)
        self._phases = phases
        self._device = device

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Label one frame."""
        import torch

        from converters.networks import SMP

        height, width = image.shape[:2]
        if isinstance(self._network, SMP):
            return labels_from_phases(self.phase_labels(image))[:height, :width]
        with torch.inference_mode():
            labels = self._network(self._planes(image)).argmax(1)
        return np.asarray(labels[0, :height, :width].cpu().numpy(), np.uint8)

    def phase_labels(self, image: NDArray[np.uint8]) -> dict[Phase, NDArray[np.uint8]]:
        """The labels ``(H/4, W/4)`` uint8 of the padded frame at each computed phase, in the order of computing."""
        import torch

        with torch.inference_mode():
            x = self._planes(image)
            phases = dispersed((WINDOW, WINDOW))[: self._phases]
            return {phase: self._phase(self._network, x, phase) for phase in phases}

    def _planes(self, image: NDArray[np.uint8]) -> Tensor:
        from smp_deploy.training.augment import normalised, padded_to, planes_from_image

        size = padded_size((image.shape[0], image.shape[1]), self._network.size_multiple)
        return padded_to(normalised(planes_from_image(image)), size)[None].to(self._device)

    def _phase(self, network: SegmentationNetwork, x: Tensor, phase: Phase) -> NDArray[np.uint8]:
        """The predictions ``(H/4, W/4)`` uint8 at one phase of the 4x4 window."""
        from converters.networks import SMP
        from converters.pooling import merge
        from smp_deploy.training.shrink import Sampling, sampled_logits

        assert isinstance(network, SMP)
        row, column = phase
        sampling = Sampling(((row % 2, column % 2), (row // 2, column // 2)))
        labels = sampled_logits(network, x, sampling).argmax(1, keepdim=True)
        for _ in range(sampling.dense_levels):
            labels = merge(labels, (2, 2))
        return labels[0, 0].cpu().numpy().astype(np.uint8)


def labels_from_phases(maps: Mapping[Phase, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The full map ``(H, W)`` from the labels ``(H/4, W/4)`` of some of its phases, at least one.

    Pixels of other phases take the label of the nearest pixel that has one.
    """
    fill = NearestFill((WINDOW, WINDOW))
    fill.add(list(maps))
    rows, columns = next(iter(maps.values())).shape
    labels = np.zeros((rows * WINDOW, columns * WINDOW), dtype=np.uint8)
    for (row, column), known in maps.items():
        labels[row::WINDOW, column::WINDOW] = known
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
