"""Whose a node of a graph is: the module of the network that computes it, and the part of the graph it belongs to.

Every node carries both in its ONNX metadata, so they are in the written files too. Names of nodes, tensors and
weights are for people: nothing is read from them. This file alone writes the keys, and knows the names that the modules
of :mod:`converters.graphs.stages` give their parts.
"""

from __future__ import annotations

import ast
import enum
from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
from torch import fx, nn

from converters.analysis.modules import called_modules, original_module
from engines.bundle.onnx_files import MODULE_KEY

PART_KEY = "smp_deploy.part"
"""Metadata of a node: a :class:`Part`."""

_SCOPES = "pkg.torch.onnx.name_scopes"
"""Of ``torch.onnx``: the paths of the modules that a node was called in, outermost first, then the node's own name."""


class Part(enum.Enum):
    """The parts of a graph. In a stage, the child of this name computes it."""

    NORMALIZE = "normalize"
    """From a uint8 frame to the planes that a network reads."""
    NETWORK = "network"
    PREDICTIONS = "predictions"
    """What a trunk makes of its logits."""


@dataclass(frozen=True)
class Identity:
    """Whose a node is."""

    part: Part
    module: str = ""
    """Path in the network; empty for what belongs to no module of it."""

    @property
    def metadata(self) -> dict[str, str]:
        """What a node carries."""
        return {PART_KEY: self.part.value} | ({MODULE_KEY: self.module} if self.module else {})


def part_of(node: ir.Node) -> Part:
    """The part that a node belongs to; the network where nothing is said."""
    named = node.metadata_props.get(PART_KEY)
    return next((part for part in Part if part.value == named), Part.NETWORK)


def module_of(node: ir.Node) -> str:
    """The path of a node's module, ``layer1.0.conv1``; empty for a node of no module."""
    return node.metadata_props.get(MODULE_KEY, "")


def metadata_of(node: ir.Node) -> dict[str, str]:
    """The metadata of a further node that does a part of this one's work."""
    return Identity(part_of(node), module_of(node)).metadata


def network_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes of the network itself, in order, without what is made of its logits."""
    return [node for node in model.graph if part_of(node) is not Part.PREDICTIONS]


def identities_from_scopes(model: ir.Model, stage: nn.Module) -> dict[ir.Node, Identity]:
    """By node: whose it is, from what ``torch.onnx`` noted while it exported a stage.

    Raises ``ValueError`` for a child of the stage that is no :class:`Part`.
    """
    parts = {name: Part(name) for name, _ in stage.named_children()}
    # What a stage does itself is done for its network, or for its only part.
    between = Part.NETWORK if Part.NETWORK.value in parts else next(iter(parts.values()))
    network = getattr(stage, Part.NETWORK.value, None)
    layers = _layers(network) if isinstance(network, fx.GraphModule) else None
    return {node: _identity(node, parts, between, layers) for node in model.graph}


def _identity(node: ir.Node, parts: Mapping[str, Part], between: Part, layers: Mapping[str, str] | None) -> Identity:
    scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))[:-1]
    # No name of a module has a dot in it. What is of no part is a scope that torch.export made up, where it lost a
    # node's own.
    split = [held for scope in scopes if (held := scope.partition("."))[0] in parts]
    if not split:
        return Identity(between)
    part = parts[split[-1][0]]
    if part is not Part.NETWORK:
        return Identity(part)
    paths = [path for name, _, path in split if parts[name] is part and path]
    if layers is None:
        return Identity(part, paths[-1] if paths else "")
    # A layer that consists of layers was traced as one.
    return Identity(part, next((layers[path] for path in paths if path in layers), ""))


def _layers(graph: fx.GraphModule) -> dict[str, str]:
    """By path in a rewritten network: the path that each of its layers has in the network that was handed over."""
    return {path: original_module(graph, path) for path in called_modules(graph)}
