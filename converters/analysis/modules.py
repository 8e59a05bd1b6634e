"""Which module of the user's network a module of a graph is.

A graph keeps the paths of the network it was traced from. Where a rewrite gives a layer a copy of its own, the graph
remembers what it is a copy of, so that nothing has to be read out of a name.
"""

from __future__ import annotations

from torch import fx, nn

_KEY = "smp_deploy.original_modules"


def original_module(graph: fx.GraphModule, path: str) -> str:
    """The path in the user's network of what stands at ``path`` of a traced or rewritten graph."""
    return str(graph.meta.get(_KEY, {}).get(path, path))


def called_modules(graph: fx.GraphModule) -> dict[str, None]:
    """Paths of the layers that a graph calls, each once, in the order of their execution."""
    return dict.fromkeys(str(node.target) for node in graph.graph.nodes if node.op == "call_module")


def add_copy(graph: fx.GraphModule, path: str, suffix: str, copy: nn.Module) -> str:
    """Add a copy of the layer at ``path``, beside it; gives the copy's own path, ``path_suffix`` where it is free."""
    parent, _, own = path.rpartition(".")
    holder, own = graph.get_submodule(parent), f"{own}_{suffix}"
    # Parameters, buffers and other attributes have the same names as modules.
    while hasattr(holder, own):
        own += "_"
    holder.add_module(own, copy)
    name = f"{parent}.{own}" if parent else own
    # A new mapping: copies of a graph share the old one.
    graph.meta[_KEY] = {**graph.meta.get(_KEY, {}), name: original_module(graph, path)}
    return name
