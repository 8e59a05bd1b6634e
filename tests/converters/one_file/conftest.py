"""Bundles that are packed, each exported once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from converters.exporting import export
from engines import Bundle
from tests.conftest import SIZE, WIDTH, made_once
from tests.networks import UnevenNetwork, with_statistics


@pytest.fixture(scope="session")
def reduced(small_network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small network's default trunk in int8 and bf16, of opset 22."""
    frames = [np.random.default_rng(3).integers(0, 256, (*SIZE, 3), dtype=np.uint8)]

    def make(target: object) -> None:
        export(
            small_network,
            target,  # type: ignore[arg-type]
            size=SIZE,
            levels=2,
            lowerings="reshape",
            precisions=("int8", "bf16"),
            calibration_frames=frames,
            opset=22,
            source="smp-resnet18",
            width=WIDTH,
        )

    return Bundle.open(made_once(tmp_path_factory, "packed-reduced", make))


@pytest.fixture(scope="session")
def of_logits(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Logits of uneven windows for an odd frame, which is padded: 37x70."""

    def make(target: object) -> None:
        network = with_statistics(UnevenNetwork, seed=3)
        levels = (1, 2)
        export(network, target, size=(37, 70), outputs="logits", levels=levels, lowerings="reshape", precisions="fp32")  # type: ignore[arg-type]

    return Bundle.open(made_once(tmp_path_factory, "packed-logits", make))
