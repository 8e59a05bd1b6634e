"""The state of a training run on disk: whole or absent, and enough to go on as if nothing had happened."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.checkpoints import check_archive
from engines.bundle.gate import opened_file, write_file
from engines.bundle.limits import TRAINING_STATE_BYTES
from engines.errors import CheckpointError
from smp_deploy.training.config import differences
from smp_deploy.training.metrics import Measurement

_SCHEMA = 2


@dataclass
class RunState:
    """Everything that a step of training reads and changes.

    What is drawn at random in a step (crops, sampled offsets) is a function of the seed and the step's number,
    so the number stands for the random state of the data. torch's own generator is kept as well, for layers
    that draw from it.
    """

    step: int
    network: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Tensor] | None
    best: dict[str, Tensor] | None
    history: list[Measurement] = field(default_factory=list)
    recent_losses: list[float] = field(default_factory=list)
    random: Tensor = field(default_factory=torch.get_rng_state)


def save_state(path: Path, state: RunState, config: str) -> None:
    """Replace the state on disk in one move; a kill at any moment leaves the one before or this one.

    ``config`` is JSON: the settings and the data, which a resume must share.
    """
    document = {
        "schema": _SCHEMA,
        "config": config,
        "step": state.step,
        "network": state.network,
        "optimizer": state.optimizer,
        "scaler": state.scaler,
        "average": state.average,
        "best": state.best,
        "history": [measurement.as_row() for measurement in state.history],
        "recent_losses": state.recent_losses,
        "random": state.random,
    }
    buffer = io.BytesIO()
    torch.save(document, buffer)
    write_file(path, buffer.getvalue())


def load_state(path: Path, config: str) -> RunState:
    """The state of a run. Raises :class:`CheckpointError` if it is damaged or of a run configured otherwise."""
    try:
        with opened_file(path, TRAINING_STATE_BYTES) as stream:
            check_archive(path, stream)
            document = torch.load(stream, map_location="cpu", weights_only=True)
        if document["schema"] != _SCHEMA:
            raise CheckpointError(f"{path}: training state of schema {document['schema']}; expected {_SCHEMA}")
        if changed := differences(document["config"], config):
            raise CheckpointError(
                f"{path}: the run was started with other settings ({'; '.join(changed)}); "
                "resume it with the same ones, or start another run elsewhere"
            )
        return RunState(
            step=document["step"],
            network=document["network"],
            optimizer=document["optimizer"],
            scaler=document["scaler"],
            average=document["average"],
            best=document["best"],
            history=[Measurement.from_row(row) for row in document["history"]],
            recent_losses=document["recent_losses"],
            random=document["random"],
        )
    except CheckpointError:
        raise
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise CheckpointError(f"{path}: not a training state that can be read: {error}") from error
