"""Sizes of batches that a forward pass reads from its maps: other ones at every level."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import fx

from converters.analysis.tracing import name_of
from converters.densifying.plan import Plan
from converters.densifying.values import map_of
from engines.errors import NetworkError


class Batches:
    """Follows the sizes of batches through a trace: ``x.shape[0]``, ``x.size(0)``, and what is computed from them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._read: dict[fx.Node, fx.Node] = {}
        """The maps that they are read from."""
        self._computed: dict[fx.Node, fx.Node] = {}

    def note(self, node: fx.Node) -> None:
        """Look at a node that gives no map."""
        for held in node.all_input_nodes:
            source = self._source(held)
            if source is not None:
                self._computed[node] = source
        args = node.args
        if not args or not isinstance(args[0], fx.Node):
            return
        if node.op == "call_method" and node.target == "size":
            axis, source = args[1] if len(args) > 1 else node.kwargs.get("dim"), args[0]
        elif node.op == "call_function" and node.target is operator.getitem:
            axis, source = args[1], _shape_source(args[0])
        else:
            return
        if axis == 0 and source in self._plan.places:
            self._read[node] = source

    def check(self, node: fx.Node, first: fx.Node, values: Mapping[fx.Node, Any]) -> None:
        """Let a size that another level's map gave be read from a node's own map, its first input.

        Raises :class:`NetworkError` where that is another number.
        """
        own = self._plan.places[first].stack
        for held in node.all_input_nodes:
            source = self._source(held)
            if source is None or self._plan.places[source].stack == own:
                continue
            value = map_of(values[first])
            if held in self._computed or value is None or value.shape[0] != values[held]:
                raise NetworkError(
                    f"{name_of(node)} is given the batch size of another level's map ({name_of(source)}): read it from "
                    "the map itself"
                )
            self._plan.batches.setdefault(node, {})[held] = first

    def _source(self, node: fx.Node) -> fx.Node | None:
        return self._read.get(node, self._computed.get(node))


def _shape_source(node: fx.Node) -> Any:
    """The map whose whole shape a node is."""
    if node.op == "call_method" and node.target == "size" and len(node.args) == 1 and not node.kwargs:
        return node.args[0]
    if node.op == "call_function" and node.target is getattr and node.args[1] == "shape":
        return node.args[0]
    return None
