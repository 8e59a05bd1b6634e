"""Where maps of different levels meet: each is brought to the level of what it meets.

A deeper map is merged. A gate of one value a map, as squeeze-and-excitation has, is one value for each shift: it is
spread over the map of its level and merged, where it meets a shallower map; and given to every shift, where it meets a
deeper one.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import fx

from converters.analysis.tracing import name_of
from converters.densifying.places import Place, Stack, factor_of, shallowest
from converters.densifying.writing import Writer
from engines.errors import NetworkError
from engines.schedules.phases import Size


class Adapting(Protocol):
    """How an input is brought to the level of a node."""

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """What stands for the input ``node`` at the other level."""

    def described(self) -> str:
        """What is done, for the report."""


@dataclass(frozen=True)
class Merged:
    """A deeper map, merged."""

    stack: Stack
    target: Stack

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """The merges."""
        return writer.merge(writer[node], self.stack, self.target)

    def described(self) -> str:
        """What is done."""
        return f"the branch of level {len(self.stack)} is merged to level {len(self.target)}"


@dataclass(frozen=True)
class SpreadOut:
    """A gate of a deeper level: one value for each of its maps, spread over it and merged."""

    stack: Stack
    target: Stack
    beside: fx.Node
    """A map of the target's level."""

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """As a map of its level, merged."""
        rows, columns = factor_of(self.stack, self.target)
        shape = writer.call(getattr, writer[self.beside], "shape")
        height = writer.call(operator.floordiv, writer.call(operator.getitem, shape, 2), rows)
        width = writer.call(operator.floordiv, writer.call(operator.getitem, shape, 3), columns)
        spread = writer.graph.call_method("expand", (writer[node], -1, -1, height, width))
        return writer.merge(spread, self.stack, self.target)

    def described(self) -> str:
        """What is done."""
        return f"the gate of level {len(self.stack)} is spread over its maps and merged to level {len(self.target)}"


@dataclass(frozen=True)
class GivenToAll:
    """A gate of a shallower level: the same value for every split batch of the further levels."""

    stack: Stack
    target: Stack

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """One element for each split batch, split."""
        rows, columns = factor_of(self.target, self.stack)
        spread = writer.graph.call_method("expand", (writer[node], -1, -1, rows, columns))
        return writer.split(spread, self.stack, self.target[len(self.stack) :])

    def described(self) -> str:
        """What is done."""
        return f"the gate of level {len(self.stack)} is given to every split batch of level {len(self.target)}"


def adaptions(
    node: fx.Node,
    inputs: Sequence[fx.Node],
    places: Mapping[fx.Node, Place],
    sizes: Mapping[fx.Node, Size],
    axes: Callable[[fx.Node], int],
) -> tuple[Stack, dict[fx.Node, Adapting]]:
    """The level at which a node's inputs meet, and how those of others get there.

    Raises :class:`NetworkError`, naming the node, where they cannot.
    """
    stacks = {places[held].stack for held in inputs}
    if len(stacks) == 1:
        return places[inputs[0]].stack, {}
    maps = [held for held in inputs if sizes.get(held, (1, 1)) != (1, 1)]
    target = shallowest([places[held].stack for held in maps]) if maps else max(stacks, key=len)
    where = f"maps of different levels meet at {name_of(node)}"
    if target is None or shallowest(list(stacks)) is None:
        raise NetworkError(f"{where}, whose strides are no parts of each other's: {_shown(stacks)}")
    adapted: dict[fx.Node, Adapting] = {}
    for held in inputs:
        place = places[held]
        if held in maps and not place.on_grid:
            raise NetworkError(
                f"{where}, and {name_of(held)} is pooled or reshaped: its rows and columns are not those of its level"
            )
        if place.stack == target:
            continue
        if axes(held) != 4:
            raise NetworkError(f"{where}, and {name_of(held)} has {axes(held)} axes: it cannot be merged")
        if held in maps:
            adapted[held] = Merged(place.stack, target)
        elif len(place.stack) < len(target):
            adapted[held] = GivenToAll(place.stack, target)
        else:
            beside = next((other for other in maps if places[other].stack == target and places[other].on_grid), None)
            if beside is None:
                raise NetworkError(f"{where}, and no map of level {len(target)} is among them")
            adapted[held] = SpreadOut(place.stack, target, beside)
    return target, adapted


def _shown(stacks: set[Stack]) -> str:
    return " and ".join(sorted("x".join(f"{h},{w}" for h, w in stack) or "none" for stack in stacks))
