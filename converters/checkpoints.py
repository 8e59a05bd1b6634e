"""Checkpoints: read without running any code, and loaded with every mismatch listed at once."""

from __future__ import annotations

import hashlib
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from converters.networks import SegmentationNetwork, network_from_arch
from engines.bundle.gate import opened_file
from engines.bundle.limits import CHECKPOINT_BYTES
from engines.errors import CheckpointError, InputError, MissingDependency

_PICKLED = (".pt", ".pth", ".ckpt")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "network")
_PREFIXES = ("module.", "_orig_mod.")
"""Of data-parallel training and of ``torch.compile``."""
_CLASSIFIERS = ("head.", "head_layer2.", "head_layer3.", "fc.")
_SHOWN_KEYS = 8
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by their state-dict keys, and where they come from."""

    path: Path
    tensors: Mapping[str, Tensor]
    sha256: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What a safetensors file says of itself: somebody else's words."""

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
    metadata: dict[str, str] = {}
    try:
        with opened_file(path, CHECKPOINT_BYTES) as stream:
            if path.suffix == ".safetensors":
                loaded, metadata = _from_safetensors(path, stream)
            elif path.suffix in _PICKLED:
                loaded = _from_pickle(path, stream)
            else:
                known = ", ".join((".safetensors", *_PICKLED))
                raise CheckpointError(f"{path} is no checkpoint by its name; known are {known}")
            sha256 = _sha256(stream)
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror}") from error
    except CheckpointError:
        raise
    except InputError as error:
        raise CheckpointError(f"cannot read the checkpoint: {error}") from error
    return Checkpoint(path, _unwrapped(path, loaded), sha256, metadata)


def check_archive(path: Path, stream: BinaryIO) -> None:
    """Raise :class:`CheckpointError` for an archive that unpacks to more than the file is long.

    ``torch.save`` compresses nothing, so one that does was made to take memory.
    """
    if zipfile.is_zipfile(stream):
        with zipfile.ZipFile(stream) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > stream.seek(0, 2):
            raise CheckpointError(
                f"{path} unpacks to {unpacked} bytes, more than the file has: torch.save wrote no such"
            )
    stream.seek(0)


def _sha256(stream: BinaryIO) -> str:
    stream.seek(0)
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def network_from_checkpoint(
    checkpoint: Checkpoint, arch: str, *, classes: int, width: int, backbone_only: bool = False
) -> SegmentationNetwork:
    """A known architecture with a checkpoint's parameters, in training mode.

    That the checkpoint fits is seen before the network takes memory: its classes and width may be a file's word.

    Args:
        checkpoint: its keys must be the network's.
        arch: a name of :data:`converters.networks.ARCHITECTURES`.
        classes: channels of the logits.
        width: channels of the stem.
        backbone_only: as for :func:`load_checkpoint`.

    Raises :class:`NetworkError` for an unknown architecture and :class:`CheckpointError` as :func:`load_checkpoint`.
    """
    with torch.device("meta"):
        shapes = network_from_arch(arch, classes=classes, width=width)
    _check_fits(shapes, checkpoint, backbone_only=backbone_only)
    network = network_from_arch(arch, classes=classes, width=width)
    load_checkpoint(network, checkpoint, backbone_only=backbone_only)
    return network


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
    tensors = _check_fits(network, checkpoint, backbone_only=backbone_only)
    network.load_state_dict(tensors, strict=False)


def _check_fits(network: nn.Module, checkpoint: Checkpoint, *, backbone_only: bool) -> dict[str, Tensor]:
    """The tensors that a network takes over, by its keys. Raises as :func:`load_checkpoint`."""
    expected = network.state_dict()
    tensors = dict(checkpoint.tensors)
    missing = [key for key in expected if key not in tensors and not key.endswith("num_batches_tracked")]
    # A safetensors file gives its keys in another order each time.
    unexpected = sorted(key for key in tensors if key not in expected)
    if backbone_only:
        missing = [key for key in missing if not key.startswith(_CLASSIFIERS)]
        unexpected = [key for key in unexpected if not key.startswith(_CLASSIFIERS)]
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(_CLASSIFIERS)}
    fitting = {key for key in expected if key in tensors and tensors[key].shape == expected[key].shape}
    mis_shaped = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and key not in fitting
    ]
    # A tensor may repeat one stored value as often as it says, so only those of the network's shapes are looked at.
    not_finite = [key for key in expected if key in fitting and not torch.isfinite(tensors[key]).all()]
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
    return {key: tensors[key] for key in expected if key in tensors}


def _from_safetensors(path: Path, stream: BinaryIO) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata. The tensors are the file's own pages, mapped: a large one is not held twice."""
    try:
        import safetensors
    except ImportError as error:
        raise MissingDependency("safetensors", "export") from error
    try:
        # The file that was checked, by its descriptor: the path may lead to another one by now.
        with safetensors.safe_open(f"/proc/self/fd/{stream.fileno()}", framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error


def _from_pickle(path: Path, stream: BinaryIO) -> Any:
    try:
        check_archive(path, stream)
        with warnings.catch_warnings():
            # Of protocols that other tools write; what cannot be read is an error below.
            warnings.simplefilter("ignore")
            return torch.load(stream, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
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
