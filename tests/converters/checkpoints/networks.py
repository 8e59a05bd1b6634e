"""Small networks and ways to write checkpoints, for the tests beside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from converters.checkpoints import checkpoint_from_file, load_checkpoint
from converters.networks import network_from_arch

State = dict[str, Tensor]


def resnet(classes: int = 5) -> nn.Module:
    """122 keys under no common prefix."""
    return network_from_arch("smp-resnet18", classes=classes, width=2)


class Small(nn.Module):
    """Keys of a network of somebody's own: buffers of bool, int and minus infinity among them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.classifier = nn.Conv2d(4, 2, 1)
        self.register_buffer("used", torch.tensor([True, False]))
        self.register_buffer("order", torch.arange(3, dtype=torch.int32))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))


def values(network: nn.Module, seed: int = 1) -> State:
    """A state dict of a network with values of its own."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(value.shape, generator=generator) if value.is_floating_point() and key != "mask" else value
        for key, value in network.state_dict().items()
    }


def under(prefix: str, state: State) -> State:
    return {f"{prefix}{key}": value for key, value in state.items()}


def saved(content: Any, path: Path) -> Path:
    """A checkpoint in the format that the suffix names."""
    if path.suffix == ".safetensors":
        save_file({key: value.clone() for key, value in content.items()}, path)
    else:
        torch.save(content, path)
    return path


def loaded(path: Path, make: Callable[[], nn.Module] = resnet, **chosen: Any) -> tuple[State, list[str]]:
    """The state of a network that a checkpoint was loaded into, and what was said of it."""
    network, said = make(), []
    load_checkpoint(network, checkpoint_from_file(path, **chosen), on_note=said.append)
    return network.state_dict(), said


def assert_same(have: State, want: State) -> None:
    assert have.keys() == want.keys()
    assert all(torch.equal(have[key], want[key]) for key in want)
