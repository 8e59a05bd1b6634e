"""What TensorRT cannot hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from engines.errors import BackendError

MAX_ELEMENTS = 2**31
"""Of one tensor, whatever its type."""


def check_tensor_sizes(tensors: Iterable[tuple[str, tuple[int, ...]]]) -> None:
    """Raise :class:`BackendError` for the first largest of ``(layer, shape)`` above the limit.

    Axes of unknown length (-1) count as 1, so that a tensor is refused only if it is surely too large.
    """
    sizes = [(math.prod(max(length, 1) for length in shape), name, shape) for name, shape in tensors]
    size, name, shape = max(sizes, key=lambda entry: entry[0], default=(0, "", ()))
    if size > MAX_ELEMENTS:
        raise BackendError(
            f"the output of layer {name} has {size} elements ({' x '.join(map(str, shape))}); TensorRT takes at most "
            f"{MAX_ELEMENTS} in one tensor: choose a smaller sub_batch=, or export for a smaller frame"
        )


def tensors_at(network: Any, shape: tuple[int, ...]) -> list[tuple[str, tuple[int, ...]]]:
    """``(layer, shape)`` of every tensor that a layer gives when the network's input has ``shape``."""
    source = network.get_input(0)
    free = tuple(source.shape)
    # TensorRT infers the shapes anew, so that axes which depend on the input are numbers.
    source.shape = shape
    layers = (network.get_layer(index) for index in range(network.num_layers))
    tensors = [
        (layer.name, tuple(layer.get_output(index).shape)) for layer in layers for index in range(layer.num_outputs)
    ]
    source.shape = free
    return tensors
