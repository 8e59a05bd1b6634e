"""Modules of a network, named by patterns, and the nodes of a graph that stay with them."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection, Iterable, Iterator

import onnx_ir as ir

from converters.graphs.identity import module_of
from engines.errors import NetworkError


def has_weights(node: ir.Node) -> bool:
    """Whether a node reads floating constants, apart from the limits of a Clip."""
    return node.op_type != "Clip" and any(value.is_initializer() for value in _floats(node))


def kept_nodes(nodes: Iterable[ir.Node], modules: Collection[str], further: Collection[ir.Node] = ()) -> set[ir.Node]:
    """The nodes of these modules and these further ones, and those without weights that follow them.

    A layer without weights (a ReLU, a rearrangement) stays with the result it takes, so that a value too large for
    half precision is not cast between a convolution and its ReLU. A sum stays with a kept module that it takes a
    result of. What follows the sum in turn does not carry on through the next sum, or one kept module would keep all
    shortcuts after it.

    Args:
        nodes: of a single-precision graph, in its order.
        modules: paths in the network.
        further: nodes, whatever module they are of.
    """
    near: dict[ir.Node, bool] = {}
    for node in nodes:
        sources = [value.producer() for value in _floats(node) if not value.is_initializer()]
        kept = [near[source] for source in sources if source is not None and source in near]
        if module_of(node) in modules or node in further:
            near[node] = True
        elif kept and not has_weights(node) and (any(kept) or len(kept) == len(sources)):
            near[node] = len(sources) == 1 and kept[0]
    return set(near)


def matching_modules(patterns: Iterable[str], modules: Collection[str]) -> frozenset[str]:
    """The modules that shell patterns name: ``layer4.*``, ``*.conv1``, ``head``. A module stands for all inside it.

    Raises :class:`NetworkError` for a pattern that names none, with names near to it.
    """
    found: set[str] = set()
    for pattern in patterns:
        named = modules_named(pattern, modules)
        if not named:
            raise NetworkError(f"{pattern!r} names no module of the network; {_near(pattern, modules)}")
        found |= named
    return frozenset(found)


def modules_named(pattern: str, modules: Collection[str]) -> set[str]:
    """The modules that one pattern names; perhaps none."""
    return {module for module in modules if any(fnmatch.fnmatchcase(path, pattern) for path in _and_parents(module))}


def _near(pattern: str, modules: Collection[str]) -> str:
    known = sorted({path for module in modules for path in _and_parents(module)})
    near = difflib.get_close_matches(pattern, known, n=3, cutoff=0.5) or known[:3]
    return f"it has {', '.join(near)} and others" if len(known) > len(near) else f"it has {', '.join(near) or 'none'}"


def _and_parents(module: str) -> Iterator[str]:
    """``layer4.0.conv1``, ``layer4.0``, ``layer4``."""
    while module:
        yield module
        module = module.rpartition(".")[0]


def _floats(node: ir.Node) -> list[ir.Value]:
    """The floating values that a node reads, without a Resize's scales and the like."""
    return [value for value in node.inputs if value is not None and value.dtype is ir.DataType.FLOAT]
