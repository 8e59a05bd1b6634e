"""Training: the paper's protocol as defaults, shrink-expand steps, and runs that resume after any kill."""

from smp_deploy.training.config import (
    Augmentation,
    Autocast,
    LearningRateSchedule,
    Loss,
    Optimizer,
    TrainingConfig,
    Validation,
)
from smp_deploy.training.metrics import Measurement
from smp_deploy.training.operation import train
from smp_deploy.training.sampling import (
    Sampling,
    draw_sampling,
    sampled_labels,
    sampled_logits,
    training_form,
    validation_form,
)
from smp_deploy.training.trainer import Observer, Run, Trainer
from smp_deploy.training.weights import WeightsInfo, network_from_weights, save_weights

__all__ = [
    "Augmentation",
    "Autocast",
    "LearningRateSchedule",
    "Loss",
    "Measurement",
    "Observer",
    "Optimizer",
    "Run",
    "Sampling",
    "Trainer",
    "TrainingConfig",
    "Validation",
    "WeightsInfo",
    "draw_sampling",
    "network_from_weights",
    "sampled_labels",
    "sampled_logits",
    "save_weights",
    "train",
    "training_form",
    "validation_form",
]
