"""What nodes give while a trace is followed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def map_of(value: Any) -> Tensor | None:
    """A tensor, or the first one of a collection that holds some; of four axes where one has them."""
    found = list(tensors_of(value))
    return next((tensor for tensor in found if tensor.ndim == 4), found[0] if found else None)


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors of a value: itself, or those of a collection."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        for part in value:
            yield from tensors_of(part)
