"""Checkpoints: read without running any code, and loaded with every mismatch listed at once."""

from __future__ import annotations

import hashlib
import io
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.errors import CheckpointError, MissingDependency

_PICKLED = (".pt", ".pth", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network")
_PREFIXES = ("module.", "_orig_mod.")
"""Of data-parallel training and of ``torch.compile``."""
_CLASSIFIERS = ("head.", "head_layer2.", "head_layer3.", "fc.")
_SHOWN_KEYS = 8


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by their state-dict keys, and where they come from."""

    path: Path
    tensors: Mapping[str, Tensor]
    sha256: str

    @property
    def classes(self) -> int | None:
        """Channels of its classifier, ``head``, or ``None`` where it has none."""
        return self._channels("head.weight")

    @property
    def width(self) -> int | None:
        """Channels of its stem, ``conv1``, or ``None`` where it has none."""
        return self._channels("conv1.weight")

    def _channels(self, key: str) -> int | None:
        return self.tensors[key].shape[0] if key in self.tensors and self.tensors[key].ndim else None


def checkpoint_from_file(path: Path) -> Checkpoint:
    """Read ``.safetensors``, or ``.pt``, ``.pth``, ``.ckpt`` with weights only: a pickle's code is never run.

    State dicts inside the usual wrappers are found, and the prefix of data-parallel training is taken off.
    Raises :class:`CheckpointError` for a file that is absent, truncated, of another kind, or that holds
    anything but tensors.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    if path.suffix == ".safetensors":
        loaded = _from_safetensors(path, content)
    elif path.suffix in _PICKLED:
        loaded = _from_pickle(path, content)
    else:
        known = ", ".join((".safetensors", *_PICKLED))
        raise CheckpointError(f"{path} is no checkpoint by its name; known are {known}")
    return Checkpoint(path, _unwrapped(path, loaded), hashlib.sha256(content).hexdigest())


def load_checkpoint(network: nn.Module, checkpoint: Checkpoint, *, backbone_only: bool = False) -> None:
    """Copy a checkpoint's tensors into a network.

    Args:
        network: changed in place.
        checkpoint: its keys must be the network's.
        backbone_only: accept a checkpoint without the network's classifiers, and ignore its own (an ImageNet
            checkpoint, say); the network's classifiers stay as they are.

    Raises:
        CheckpointError: keys are missing, unexpected or of another shape, or values are not finite; one message
            lists them all.
    """
    expected = network.state_dict()
    tensors = dict(checkpoint.tensors)
    missing = [key for key in expected if key not in tensors and not key.endswith("num_batches_tracked")]
    # A safetensors file gives its keys in another order each time.
    unexpected = sorted(key for key in tensors if key not in expected)
    if backbone_only:
        missing = [key for key in missing if not key.startswith(_CLASSIFIERS)]
        unexpected = [key for key in unexpected if not key.startswith(_CLASSIFIERS)]
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(_CLASSIFIERS)}
    mis_shaped = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    not_finite = [key for key in expected if key in tensors and not torch.isfinite(tensors[key]).all()]
    problems = [
        f"{len(keys)} {kind}: {_listed(keys)}"
        for kind, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", mis_shaped),
            ("with values that are not finite", not_finite),
        )
        if keys
    ]
    if problems:
        hint = "; backbone_only=True accepts one without these classifiers" if _lacks_classifiers(missing) else ""
        raise CheckpointError(f"{checkpoint.path} does not fit the network: {'; '.join(problems)}{hint}")
    network.load_state_dict({key: tensors[key] for key in expected if key in tensors}, strict=False)


def _from_safetensors(path: Path, content: bytes) -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise MissingDependency("safetensors", "export") from error
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error


def _from_pickle(path: Path, content: bytes) -> Any:
    try:
        with warnings.catch_warnings():
            # Of protocols that other tools write; what cannot be read is an error below.
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than weights (or is no checkpoint) and was not opened, since that could run code; "
            "save its state_dict alone, best as .safetensors"
        ) from error
    except Exception as error:
        # torch.load meets damage in a dozen ways, which all mean the same.
        raise CheckpointError(f"{path} is truncated or no PyTorch checkpoint") from error


def _unwrapped(path: Path, loaded: Any) -> dict[str, Tensor]:
    while isinstance(loaded, Mapping) and (wrapped := next((name for name in _WRAPPERS if name in loaded), None)):
        loaded = loaded[wrapped]
    if not isinstance(loaded, Mapping) or not loaded:
        raise CheckpointError(f"{path} holds no state dict; received {type(loaded).__name__}")
    strangers = [str(key) for key, value in loaded.items() if not (isinstance(key, str) and _is_plain(value))]
    if strangers:
        raise CheckpointError(
            f"{path} holds no plain state dict: {_listed(strangers)} are no tensors of ordinary numbers"
        )
    # Wrappers come in any order: DistributedDataParallel in torch.compile, and the other way round.
    while prefix := next((held for held in _PREFIXES if all(key.startswith(held) for key in loaded)), None):
        loaded = {key.removeprefix(prefix): value for key, value in loaded.items()}
    return dict(loaded)


def _is_plain(value: Any) -> bool:
    """Whether a value is a dense tensor of numbers that a network can take over as they are."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
    )


def _lacks_classifiers(missing: list[str]) -> bool:
    return bool(missing) and all(key.startswith(_CLASSIFIERS) for key in missing)


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return ", ".join(keys[:_SHOWN_KEYS]) + more
