"""The modules that a rewrite has copied, and what they are copies of."""

from __future__ import annotations

from torch import fx

_KEY = "original_modules"


def original_module(graph: fx.GraphModule, path: str) -> str:
    """The path that a module of a rewritten network has in the network that was handed over."""
    return str(graph.meta.get(_KEY, {}).get(path, path))


def copied_module(graph: fx.GraphModule, path: str, wanted: str) -> str:
    """A path for a copy of the module at ``path``: ``wanted``, or with a number where that is taken.

    The copy stands beside the module, so ``wanted`` is a name without its parents.
    """
    parents, dot, _ = path.rpartition(".")
    parent = graph.get_submodule(parents)
    names = (wanted, *(f"{wanted}_{number}" for number in range(1, len(dir(parent)) + 2)))
    free = parents + dot + next(name for name in names if not hasattr(parent, name))
    graph.meta[_KEY] = {**graph.meta.get(_KEY, {}), free: original_module(graph, path)}
    return free
