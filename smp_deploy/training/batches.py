"""Batches in an order that depends on the seed and the step alone, so that a run resumes anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from engines.errors import InputError, SmpDeployError
from smp_deploy.datasets.base import Dataset
from smp_deploy.training.augment import augmented
from smp_deploy.training.config import TrainingConfig


@dataclass(frozen=True)
class Draw:
    """One frame of one epoch: which, and what its augmentation is seeded with."""

    epoch: int
    frame: int


@dataclass(frozen=True)
class DataOrder:
    """Which frames each batch of a run holds."""

    frames: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.frames < self.batch:
            raise InputError(
                f"a batch of {self.batch} needs as many training frames; the dataset has {self.frames}. "
                "Choose a smaller batch="
            )

    @property
    def batches_per_epoch(self) -> int:
        """Whole batches; the few frames that are left over differ from epoch to epoch."""
        return self.frames // self.batch

    def batch_at(self, number: int) -> list[Draw]:
        """The frames of the batch with this number, counted from the start of the run."""
        epoch, position = divmod(number, self.batches_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.frames)
        chosen = order[position * self.batch : (position + 1) * self.batch]
        return [Draw(epoch, int(frame)) for frame in chosen]


_Batch: TypeAlias = tuple[Tensor, Tensor]


class _Crops(TorchDataset[_Batch | SmpDeployError]):
    """Augmented crops of a dataset, addressed by draws.

    What is wrong with a frame is handed on as a value: raised in a worker, it would arrive as a printed traceback.
    """

    def __init__(self, dataset: Dataset, config: TrainingConfig) -> None:
        self._dataset = dataset
        self._config = config

    def __getitem__(self, draw: Draw) -> _Batch | SmpDeployError:
        # Its own generator for every crop: neither workers nor a resume change what is drawn.
        rng = np.random.default_rng([self._config.seed, 1, draw.epoch, draw.frame])
        try:
            example = self._dataset.load(draw.frame)
        except SmpDeployError as error:
            return error
        return augmented(example, self._config.augmentation, self._dataset.info.ignore_id, rng)


class _Remaining:
    """The batches from one number up to another, for a :class:`DataLoader`."""

    def __init__(self, order: DataOrder, start: int, stop: int) -> None:
        self._order, self._start, self._stop = order, start, stop

    def __iter__(self) -> Iterator[list[Draw]]:
        return (self._order.batch_at(number) for number in range(self._start, self._stop))

    def __len__(self) -> int:
        return self._stop - self._start


def _collated(crops: list[_Batch | SmpDeployError]) -> _Batch | SmpDeployError:
    """The crops as one batch, or the first thing that is wrong with one of them."""
    wrong = [crop for crop in crops if isinstance(crop, SmpDeployError)]
    if wrong:
        return wrong[0]
    images, labels = default_collate(crops)
    return images, labels


def training_batches(
    dataset: Dataset, config: TrainingConfig, *, start: int, stop: int, workers: int
) -> Iterator[_Batch]:
    """Batches number ``start`` to ``stop``: ``(n, 3, h, w)`` float32 normalised and ``(n, h, w)`` int64 labels.

    With ``workers`` processes they are prepared ahead; with 0, when they are asked for. Raises what loading a frame
    raises, :class:`DatasetError` for a file that cannot be used, in this process.
    """
    order = DataOrder(len(dataset), config.batch, config.seed)
    loader = DataLoader(
        _Crops(dataset, config),
        batch_sampler=_Remaining(order, start, stop),
        num_workers=workers,
        collate_fn=_collated,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, SmpDeployError):
            raise batch
        images, labels = batch
        yield images, labels
