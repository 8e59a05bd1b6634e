"""Which tensors of a checkpoint are a network's: the prefix under which its names stand is found by matching.

Trainers wrap networks, and every wrapper leaves its name in front of the keys: ``model.`` of Lightning, ``module.`` of
data-parallel training and of averaged models, ``state_dict.`` of a file with more than weights. None of them is looked
for. A prefix is right if all that the network needs stands under it and nothing else does, so a network whose own child
is called ``module`` is matched as it is.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from converters.checkpoints.files import Checkpoint
from engines.errors import CheckpointError

_INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What wrappers of single layers put into the middle of keys: ``torch.compile``, sharding, recomputation."""
_SHOWN = 4
_COMPARED = 500
"""Names that one is compared with, to find the nearest: each takes about 20 microseconds."""


@dataclass(frozen=True)
class Weights:
    """The part of a checkpoint that is a network's, as far as one fits."""

    checkpoint: Checkpoint
    tensors: Mapping[str, Tensor]
    """By the network's keys; what stands beside them under the same prefix, by its own."""
    prefix: str
    """What was taken off their names in the file."""
    added: str = ""
    """What the network has in front of all its keys and the file has not."""
    unused: Sequence[str] = ()
    """The names in the file of the tensors that are not under the prefix."""

    @property
    def said(self) -> str | None:
        """What was chosen, for the user; ``None`` where there was nothing to choose."""
        if not self.prefix and not self.added:
            return None
        parts = [f"{self.checkpoint.path}: the weights are those under {self.prefix.rstrip('.')!r}"]
        if not self.prefix:
            parts = [f"{self.checkpoint.path}: the weights are the whole file's"]
        if self.added:
            parts.append(f"they go under the network's {self.added.rstrip('.')!r}")
        if self.unused:
            more = f" and {len(self.unused) - _SHOWN} more" if len(self.unused) > _SHOWN else ""
            parts.append(f"not used: {', '.join(self.unused[:_SHOWN])}{more}")
        return "; ".join(parts)


def weights_of(
    checkpoint: Checkpoint, expected: Mapping[str, Tensor], *, optional: Callable[[str], bool], shapes: bool = True
) -> Weights:
    """The tensors of a network in a checkpoint; where none fit, those that come nearest.

    Args:
        checkpoint: where they are looked for.
        expected: the network's state dict.
        optional: which keys may be absent, or be there though the network has none of them.
        shapes: whether the network's shapes tell sets of weights apart; not where they are yet to be read off.

    Raises :class:`CheckpointError` where several sets of weights fit and differ: which is meant, a person says.
    """
    for own, names in _spellings(expected, checkpoint.tensors):
        for added in _common_prefixes(own):
            wanted = {key.removeprefix(added): key for key in own}
            needed = {short for short, key in wanted.items() if not optional(own[key])}
            found = [
                Weights(checkpoint, tensors, prefix, added, _beside(prefix, names))
                for prefix in _prefixes_of_all(needed, names, exact=checkpoint.exact)
                if (tensors := _under(prefix, names, wanted, own, checkpoint.tensors, optional)) is not None
            ]
            if found:
                return _one_of(found, expected, shapes=shapes)
    return _nearest(checkpoint, expected)


def nearest_name(key: str, like: Tensor, candidates: Mapping[str, Tensor]) -> str | None:
    """The name that is most like a key; of tensors of its shape, where there are any."""
    alike = [name for name, tensor in candidates.items() if tensor.shape == like.shape]
    for names in (alike, list(candidates)):
        if close := difflib.get_close_matches(key, names[:_COMPARED], n=1, cutoff=0.5):
            return close[0]
    # A layer with another name has its shape all the same, where only one is left.
    return alike[0] if len(alike) == 1 else None


def _spellings(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """The network's keys and the file's names, by how they are compared: as they are, then without wrappers inside."""
    for inside in ((), _INSIDE, (*_INSIDE, "module")):
        own = {_without(key, inside): key for key in expected}
        names = {_without(name, inside): name for name in tensors}
        if len(own) == len(expected) and len(names) == len(tensors):
            yield own, names


def _without(name: str, inside: tuple[str, ...]) -> str:
    return ".".join(part for part in name.split(".") if part not in inside) if inside else name


def _common_prefixes(keys: Mapping[str, str]) -> list[str]:
    """What stands in front of all keys, the shortest first: nothing, ``net.``, ``net.body.``."""
    first = next(iter(keys), "")
    parts = first.split(".")
    prefixes = ["".join(f"{part}." for part in parts[:count]) for count in range(len(parts))]
    return [prefix for prefix in prefixes if all(key.startswith(prefix) for key in keys)]


def _prefixes_of_all(needed: set[str], names: Mapping[str, str], *, exact: bool) -> list[str]:
    """The prefixes under which everything stands that is needed, in the order of the file, outer ones first."""
    counts: Counter[str] = Counter()
    for name in names:
        counts.update(prefix for prefix in _prefixes(name) if name.removeprefix(prefix) in needed)
    full = [prefix for prefix, count in counts.items() if count == len(needed)] if needed else [""]
    return [prefix for prefix in full if not exact or not prefix]


def _prefixes(name: str) -> Iterator[str]:
    at = -1
    yield ""
    while (at := name.find(".", at + 1)) >= 0:
        yield name[: at + 1]


def _under(
    prefix: str,
    names: Mapping[str, str],
    wanted: Mapping[str, str],
    own: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    optional: Callable[[str], bool],
) -> dict[str, Tensor] | None:
    """The tensors under a prefix by the network's keys; ``None`` where one is the network's neither by key nor name."""
    found = {}
    for name, original in names.items():
        if name.startswith(prefix):
            short = name.removeprefix(prefix)
            if short in wanted:
                found[own[wanted[short]]] = tensors[original]
            elif not optional(short):
                return None
    return found


def _beside(prefix: str, names: Mapping[str, str]) -> list[str]:
    return sorted(original for name, original in names.items() if not name.startswith(prefix))


def _one_of(found: list[Weights], expected: Mapping[str, Tensor], *, shapes: bool) -> Weights:
    if shapes and (fitting := [weights for weights in found if _fit(weights.tensors, expected)]):
        found = fitting
    first = found[0]
    if first.prefix and any(not _same(first.tensors, other.tensors) for other in found[1:]):
        parts = [weights.prefix.rstrip(".") for weights in found]
        raise CheckpointError(
            f"{first.checkpoint.path} holds {len(parts)} sets of weights that fit the network and differ: "
            f"{', '.join(parts)}; say which counts: weights={parts[-1]!r}"
        )
    return first


def _fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return all(tensor.shape == expected[key].shape for key, tensor in tensors.items())


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    # The shapes come first: a tensor may repeat one stored value as often as it says.
    return one.keys() == other.keys() and all(
        tensor.dtype == other[key].dtype
        and tensor.stride() == other[key].stride()
        and tensor.shape == other[key].shape
        and (tensor.data_ptr() == other[key].data_ptr() or _equal(tensor, other[key]))
        for key, tensor in one.items()
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    dense = one.numel() * one.element_size() <= one.untyped_storage().nbytes()
    return dense and torch.equal(one, other)


def _nearest(checkpoint: Checkpoint, expected: Mapping[str, Tensor]) -> Weights:
    """What stands under the prefix that has most of a network's keys; else under that of most tensors."""
    counts: Counter[str] = Counter()
    for name in checkpoint.tensors:
        counts.update(prefix for prefix in _prefixes(name) if name.removeprefix(prefix) in expected)
    prefix = ""
    if counts and not checkpoint.exact:
        prefix = max(counts, key=lambda held: (counts[held], -len(held)))
    tensors = {
        name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)
    }
    return Weights(checkpoint, tensors, prefix)
