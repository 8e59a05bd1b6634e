"""Whether two traces of one network, for frames of two sizes, are the same graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx


def is_same_graph(one: fx.GraphModule, other: fx.GraphModule) -> bool:
    """Whether two graphs take the same steps with the same numbers and stored tensors.

    Then what is proven of one is proven of the other, too: nothing in it was decided otherwise for its size.
    """
    return _steps_of(one) == _steps_of(other) and all(
        _same(_stored(one, node), _stored(other, node)) for node in one.graph.nodes if node.op == "get_attr"
    )


def _steps_of(graph: fx.GraphModule) -> list[Any]:
    place = {node: f"%{index}" for index, node in enumerate(graph.graph.nodes)}
    # What a step is given is compared as it is shown: arguments of functions need not be comparable.
    return [
        (node.op, node.target, repr(fx.node.map_arg((node.args, dict(node.kwargs)), place.__getitem__)))
        for node in graph.graph.nodes
    ]


def _stored(graph: fx.GraphModule, node: fx.Node) -> Any:
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return type(one) is type(other)
