"""The part of a network up to a module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import fx

from engines.errors import NetworkError


def nodes_until(graph: fx.GraphModule, until: str | None) -> set[fx.Node] | None:
    """The nodes up to the last one of a module. Raises :class:`NetworkError` where the network calls no such."""
    if until is None:
        return None
    nodes = list(graph.graph.nodes)
    inside = [index for index, node in enumerate(nodes) if until in _modules_of(node)]
    if not inside:
        called = dict.fromkeys(path for node in nodes for path in _modules_of(node) if "." not in path)
        raise NetworkError(
            f"until={until!r} is no module that the network calls; modules are named by their path: "
            f"{', '.join(map(repr, called))}"
        )
    return set(nodes[: inside[-1] + 1])


def _modules_of(node: fx.Node) -> list[str]:
    """The modules that a node is computed in, and the one that it calls."""
    held: Mapping[str, Any] = node.meta.get("nn_module_stack", {})
    paths = [path for path, _ in held.values()] if held else []
    return [*paths, str(node.target)] if node.op == "call_module" else paths
