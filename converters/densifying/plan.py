"""A plan: what is written in the place of every node of a strided trace, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import fx

from converters.densifying.joining import Adapting
from converters.densifying.places import Place
from converters.densifying.report import LayerRow
from converters.densifying.writing import Writer
from engines.schedules.phases import Size


class Action(Protocol):
    """What is written in the place of a node."""

    def write(self, writer: Writer, node: fx.Node) -> fx.Node:
        """Write it, and give the node that stands for the strided one's value."""

    def described(self) -> str:
        """What is done, for the report."""


@dataclass
class Plan:
    """What is to be written, and what is to be said of it."""

    places: dict[fx.Node, Place] = field(default_factory=dict)
    actions: dict[fx.Node, Action] = field(default_factory=dict)
    """Of the nodes that are not kept as they are."""
    adapted: dict[fx.Node, dict[fx.Node, Adapting]] = field(default_factory=dict)
    """By node, the inputs that are brought to its level first."""
    batches: dict[fx.Node, dict[fx.Node, fx.Node]] = field(default_factory=dict)
    """By node, the sizes of a batch that it is given and that are another level's, and the map to read them from."""
    rows: list[LayerRow] = field(default_factory=list)
    joins: list[str] = field(default_factory=list)
    """Where the network becomes another function than the strided one's mean or stitching."""
    end: Place = field(default_factory=lambda: Place((), True))
    """Of what the network returns, before the last merges."""
    sizes: dict[fx.Node, Size] = field(default_factory=dict)
    """Rows and columns of every map."""
