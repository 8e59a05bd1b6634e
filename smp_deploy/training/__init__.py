"""Training: the paper's protocol as defaults, shrink-expand steps, and runs that resume after any kill."""

from smp_deploy.training.config import (
    Augmentation,
    Loss,
    Optimizer,
    Precision,
    Schedule,
    TrainingConfig,
    Validation,
)
from smp_deploy.training.metrics import Measurement
from smp_deploy.training.shrink import Sampling, draw_sampling, sampled_labels, sampled_logits
from smp_deploy.training.trainer import Observer, Run, Trainer
from smp_deploy.training.weights import WeightsInfo, network_from_weights, save_weights

__all__ = [
    "Augmentation",
    "Loss",
    "Measurement",
    "Observer",
    "Optimizer",
    "Precision",
    "Run",
    "Sampling",
    "Schedule",
    "Trainer",
    "TrainingConfig",
    "Validation",
    "WeightsInfo",
    "draw_sampling",
    "network_from_weights",
    "sampled_labels",
    "sampled_logits",
    "save_weights",
]
