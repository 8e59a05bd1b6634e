"""Weights into a network: every mismatch listed at once, every value held by the type that the network has."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from converters.analysis.received import check_shapes_known
from converters.checkpoints.files import Checkpoint
from converters.checkpoints.matching import Weights, nearest_name, weights_of
from converters.networks import SegmentationNetwork, network_from_arch
from engines.errors import CheckpointError, NetworkError

_CLASSIFIERS = ("head.", "head_layer2.", "head_layer3.", "fc.")
"""The last is ImageNet's, which a segmentation network replaces."""
_COUNT = "num_batches_tracked"
"""Old checkpoints have none, and no inference reads it."""
_SHOWN_KEYS = 8
_SHARD = re.compile(r"-\d+-of-\d+\.")

Note = Callable[[str], None]


def _silent(_: str) -> None:
    pass


def network_from_checkpoint(
    checkpoint: Checkpoint,
    arch: str,
    *,
    classes: int | None = None,
    width: int | None = None,
    backbone_only: bool = False,
    on_note: Note = _silent,
) -> SegmentationNetwork:
    """A known architecture with a checkpoint's parameters, in training mode.

    That the checkpoint fits is seen before the network takes memory: its classes and width may be a file's word.

    Args:
        checkpoint: holds the network's parameters, under any prefix.
        arch: a name of :data:`converters.networks.ARCHITECTURES`.
        classes: channels of the logits; by default the checkpoint's, else 19.
        width: channels of the stem; by default the checkpoint's, else 64.
        backbone_only: as for :func:`load_checkpoint`.
        on_note: as for :func:`load_checkpoint`.

    Raises :class:`NetworkError` for an unknown architecture and :class:`CheckpointError` as :func:`load_checkpoint`.
    """
    optional = _optional(backbone_only=backbone_only)
    with torch.device("meta"):
        names = network_from_arch(arch, classes=classes or 19, width=width or 64).state_dict()
        weights = weights_of(checkpoint, names, optional=optional, shapes=bool(classes and width))
        classes = classes or _channels(weights, "head.weight") or 19
        width = width or _channels(weights, "conv1.weight") or 64
        shapes = network_from_arch(arch, classes=classes, width=width).state_dict()
    taken = _taken(weights, shapes, left_out=_left_out(backbone_only=backbone_only))
    network = network_from_arch(arch, classes=classes, width=width)
    _load(network, weights, taken, on_note)
    return network


def load_checkpoint(
    network: nn.Module, checkpoint: Checkpoint, *, backbone_only: bool = False, on_note: Note = _silent
) -> None:
    """Copy a checkpoint's tensors into a network.

    Args:
        network: changed in place.
        checkpoint: holds the network's parameters and buffers, under any prefix; what stands beside the prefix is
            left out.
        backbone_only: accept a checkpoint without the network's classifiers, and ignore its own (an ImageNet
            checkpoint, say); the network's classifiers stay as they are.
        on_note: told which part of the file it was, where there was a choice.

    Raises:
        CheckpointError: keys are missing, unexpected or of another shape, values are not finite or beyond what the
            network's type holds, one message lists them all; or several sets of weights fit, and differ.
        NetworkError: a layer of the network is lazy and was never run, or keeps something that is no tensor.
    """
    expected = _state_of(network)
    weights = weights_of(checkpoint, expected, optional=_optional(backbone_only=backbone_only))
    taken = _taken(weights, expected, left_out=_left_out(backbone_only=backbone_only))
    _load(network, weights, taken, on_note)


def initialise_network(network: nn.Module, checkpoint: Checkpoint, *, on_note: Note = _silent) -> list[str]:
    """Start a network from another's checkpoint; the keys that stay as they were are returned.

    SMP-X and FCN32s share all parameters, FCN8s has two heads more, and an ImageNet checkpoint has the backbone alone:
    so heads, whatever is called ``head``, may be absent or of another number of classes. Everything else must be there
    and fit. Raises as :func:`load_checkpoint`.
    """
    expected = _state_of(network)
    weights = weights_of(
        checkpoint, expected, optional=lambda key: key.endswith(_COUNT) or key.startswith(_CLASSIFIERS)
    )
    taken = _taken(weights, expected, free=_CLASSIFIERS)
    _load(network, weights, taken, on_note)
    return [key for key in expected if key not in taken and not key.endswith(_COUNT)]


def _optional(*, backbone_only: bool) -> Callable[[str], bool]:
    """Whether a key may be absent, or be there in vain."""
    return lambda key: key.endswith(_COUNT) or (backbone_only and key.startswith(_CLASSIFIERS))


def _channels(weights: Weights, key: str) -> int | None:
    tensor = weights.tensors.get(key)
    return tensor.shape[0] if tensor is not None and tensor.ndim else None


def _state_of(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers. Raises :class:`NetworkError` for a network that no checkpoint can be held against."""
    check_shapes_known(network)
    expected = network.state_dict()
    for key, value in expected.items():
        if not isinstance(value, Tensor):
            raise NetworkError(
                f"the network keeps {key!r} in its state, which is no tensor: such a state is not taken over; "
                "override get_extra_state no more, or load it in the factory"
            )
    return expected


def _load(network: nn.Module, weights: Weights, taken: Mapping[str, Tensor], on_note: Note) -> None:
    network.load_state_dict(taken, strict=False)
    if weights.said is not None:
        on_note(weights.said)


def _left_out(*, backbone_only: bool) -> tuple[str, ...]:
    return _CLASSIFIERS if backbone_only else ()


def _taken(
    weights: Weights, expected: Mapping[str, Tensor], *, left_out: tuple[str, ...] = (), free: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The tensors that a network takes over, by its keys, in its types.

    Keys that begin with one of ``left_out`` are not taken, and those that begin with one of ``free`` where they are
    there and fit. Raises as :func:`load_checkpoint`.
    """
    tensors = {key: tensor for key, tensor in weights.tensors.items() if not key.startswith(left_out)}
    tensors = {
        key: tensor
        for key, tensor in tensors.items()
        if not key.startswith(free) or (key in expected and tensor.shape == expected[key].shape)
    }
    missing = [
        key
        for key in expected
        if key not in tensors and not key.endswith(_COUNT) and not key.startswith((*left_out, *free))
    ]
    # A safetensors file gives its keys in another order each time.
    unexpected = sorted(key for key in tensors if key not in expected)
    fitting = {key: tensors[key] for key in expected if key in tensors and tensors[key].shape == expected[key].shape}
    mis_shaped = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in tensors and key not in fitting
    ]
    # A tensor may repeat one stored value as often as it says, so only those of the network's shapes are looked at.
    converted = {key: _converted(tensor, expected[key]) for key, tensor in fitting.items()}
    problems = [
        ("missing", _with_nearest(missing, unexpected, weights, expected)),
        ("unexpected", unexpected),
        ("of another shape", mis_shaped),
        ("with values that are not finite", [key for key, held in converted.items() if held == "not finite"]),
        (
            "with values beyond the network's type",
            [f"{key} ({held})" for key, held in converted.items() if isinstance(held, str) and held != "not finite"],
        ),
    ]
    listed = [f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in problems if keys]
    if listed:
        hint = "; backbone_only=True accepts one without these classifiers" if _lacks_classifiers(missing) else ""
        if missing and _SHARD.search(weights.checkpoint.path.name):
            hint += "; by its name it is one of several shards: name their index in its place"
        where = f" (under {weights.prefix.rstrip('.')!r})" if weights.prefix else ""
        raise CheckpointError(f"{weights.checkpoint.path}{where} does not fit the network: {'; '.join(listed)}{hint}")
    return {key: held for key, held in converted.items() if isinstance(held, Tensor)}


def _converted(tensor: Tensor, like: Tensor) -> Tensor | str:
    """A tensor in the network's type, or why that cannot hold it."""
    kind, own = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, like.dtype))
    if not torch.isfinite(tensor).all():
        # A mask of minus infinity, for example, is the network's own choice.
        same = like.device.type != "meta" and torch.equal(tensor.to(like.dtype), like.to(tensor.device))
        return tensor.to(like.dtype) if same else "not finite"
    if tensor.dtype.is_complex and not like.dtype.is_complex:
        return f"{kind} into {own}"
    converted = tensor.to(like.dtype)
    if like.dtype.is_floating_point or like.dtype.is_complex:
        return converted if converted is tensor or torch.isfinite(converted).all() else f"{kind} into {own}"
    return converted if torch.equal(converted.to(tensor.dtype), tensor) else f"{kind} into {own}"


def _with_nearest(
    missing: list[str], unexpected: list[str], weights: Weights, expected: Mapping[str, Tensor]
) -> list[str]:
    """Missing keys, each with what the file has in its place, as far as they are shown."""
    candidates = {key: weights.tensors[key] for key in unexpected}
    if not candidates:
        candidates = {name: weights.checkpoint.tensors[name] for name in weights.unused}
    said = []
    for key in missing[:_SHOWN_KEYS]:
        if there := weights.checkpoint.others.get(f"{weights.prefix}{key}"):
            said.append(f"{key} (there, but {there})")
        elif nearest := nearest_name(key, expected[key], candidates):
            said.append(f"{key} (nearest: {nearest})")
        else:
            said.append(key)
    return said + missing[_SHOWN_KEYS:]


def _lacks_classifiers(missing: list[str]) -> bool:
    return bool(missing) and all(key.startswith(_CLASSIFIERS) for key in missing)


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return ", ".join(keys[:_SHOWN_KEYS]) + more
