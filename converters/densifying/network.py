"""The dense network: a graph over the strided network's own layers, under their own names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn

from converters.densifying.options import Densification
from engines.bundle.manifest import DensifiedRecord
from engines.schedules.phases import Size


class DenseNetwork(fx.GraphModule):
    """A strided network made dense: ``(n, 3, H, W) -> (n, classes, H, W)``.

    Its state dict has the keys, shapes and values of the strided network's, parts that its forward pass does not call
    included. In training mode its splits shrink and its merges expand, as those of any network of pooling layers.
    """

    densification: Densification
    """How it was made."""
    source: str
    """The dotted name of the strided network's class."""
    size_multiple: Size
    """The sides of an image are multiples of this."""

    def __init__(self, root: Any, graph: fx.Graph, class_name: str = "DenseNetwork") -> None:
        super().__init__(root, graph, class_name)
        _complete(self, root)
        for name in ("densification", "source", "size_multiple"):
            setattr(self, name, getattr(root, name))

    def _deepcopy_init(self) -> Callable[..., None]:
        return DenseNetwork.__init__


def _complete(made: nn.Module, root: nn.Module) -> None:
    """Give a graph the modules, parameters and buffers of its root that it does not call."""
    for name, child in root._modules.items():
        if child is None:
            continue
        own = made._modules.get(name)
        if own is None:
            made.add_module(name, child)
        elif own is not child:
            # A holder that the graph made, of some of the children.
            _complete(own, child)
    for name, parameter in root._parameters.items():
        if name not in made._parameters:
            made.register_parameter(name, parameter)
    for name, buffer in root._buffers.items():
        if name not in made._buffers:
            made.register_buffer(name, buffer)
    # A graph takes every tensor for a part of its state.
    kept = root._buffers.keys() - root._non_persistent_buffers_set
    made._non_persistent_buffers_set = {name for name in made._buffers if name not in kept}


def origin_of(network: nn.Module) -> tuple[str, DensifiedRecord | None]:
    """The dotted name of a network's class, before it was made dense if it was, and how it was."""
    if isinstance(network, DenseNetwork):
        return network.source, network.densification.record()
    return f"{type(network).__module__}.{type(network).__qualname__}", None
