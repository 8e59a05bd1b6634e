"""A training run of a second or two, for the tests that kill it: run as a file, with ``output`` set.

``runpy.run_path(this, {"output": "..."})``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from smp_deploy.datasets import Scenes
from smp_deploy.training import (
    Augmentation,
    LearningRateSchedule,
    Loss,
    Observer,
    Optimizer,
    Run,
    Trainer,
    TrainingConfig,
    Validation,
)

CONFIG = TrainingConfig(
    width=2,
    epochs=12,
    batch=2,
    accumulate=2,
    optimizer=Optimizer.ADAMW,
    learning_rate=1e-3,
    schedule=LearningRateSchedule.COSINE,
    averaging=0.9,
    dense_levels=1,
    augmentation=Augmentation(crop=(32, 64), scale=(0.8, 1.3), jitter=0.2),
    loss=Loss(class_weighting=0.5, lovasz=0.5),
    validation=Validation(every_epochs=3),
)
"""36 steps, 12 frames, everything switched on that has a state."""

TRAIN, VALIDATION = Scenes("train", size=(32, 64), count=12), Scenes("val", size=(32, 64), count=2)


def trainer(output: Path, config: TrainingConfig = CONFIG, **run: Any) -> Trainer:
    return Trainer(config, TRAIN, VALIDATION, Run(output, save_every=run.pop("save_every", 2), **run))


if __name__ != "tiny_run":
    target = globals().get("output")
    if target is not None:
        torch.set_num_threads(1)
        trainer(Path(target)).fit(Observer(), resume=True)
