"""The dense network's graph, written node by node beside the strided one's."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

from converters.densifying.places import Stack
from converters.pooling import MergePool2d, SplitPool2d
from engines.errors import NetworkError

Made = Callable[[nn.Module], nn.Module]
"""Makes of a strided layer the one with stride 1; its parameters are the same objects."""


class Writer:
    """Writes a graph whose nodes stand for those of a strided trace.

    Args:
        root: a copy of the strided network: its layers get stride 1, and keep their names.
    """

    def __init__(self, root: nn.Module) -> None:
        self.graph = fx.Graph()
        self.root = root
        self.written: dict[fx.Node, fx.Node] = {}
        """By node of the strided trace: the node whose value has its place."""
        self._splits: dict[Stack, str] = {}
        self._forms: dict[tuple[str, object], str] = {}
        """By layer and form: the path of it in that form."""
        self._strided: dict[str, nn.Module] = {}
        self._number = 0

    def __getitem__(self, node: fx.Node) -> fx.Node:
        return self.written[node]

    def argument(self, value: Any) -> Any:
        """An argument of the strided trace, as the dense graph has it."""
        return fx.map_arg(value, lambda node: self.written[node])

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A node that calls a function."""
        return self.graph.call_function(function, args, kwargs)

    def add(self, kind: str, module: nn.Module, *args: fx.Node) -> fx.Node:
        """A node that calls a layer of the dense network's own, without parameters, ``smp_mean_1`` for example."""
        name = self._free(kind)
        self.root.add_module(name, module)
        return self.graph.call_module(name, args)

    def split(self, node: fx.Node, stack: Stack, windows: Stack) -> fx.Node:
        """Split a map of a stack by further windows. There is one layer for each level, which all branches share."""
        for window in windows:
            stack = (*stack, window)
            if stack not in self._splits:
                self._splits[stack] = self._free("split")
                self.root.add_module(self._splits[stack], SplitPool2d(window))
            node = self.graph.call_module(self._splits[stack], (node,))
        return node

    def merge(self, node: fx.Node, stack: Stack, target: Stack) -> fx.Node:
        """Merge a map of a stack, innermost split first, until it is one of ``target``."""
        while len(stack) > len(target):
            split = self.root.get_submodule(self._splits[stack])
            assert isinstance(split, SplitPool2d)
            node = self.add("merge", MergePool2d(split), node)
            stack = stack[:-1]
        return node

    def batch(self, node: fx.Node) -> fx.Node:
        """The size of a map's batch."""
        return self.call(operator.getitem, self.call(getattr, node, "shape"), 0)

    def layer(self, node: fx.Node, form: object, made: Made, *args: Any) -> fx.Node:
        """A node that calls the layer of a strided node in another form, under the same name.

        Raises :class:`NetworkError` for a layer with parameters that the network calls in several forms; one without
        gets copies.
        """
        return self.graph.call_module(self._claim(str(node.target), form, made), args)

    def keep(self, node: fx.Node, inputs: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """The same call, on what stands for its inputs."""
        path = self._claim(str(node.target), None, lambda layer: layer) if node.op == "call_module" else None
        kept = self.graph.node_copy(node, lambda held: inputs[held])
        kept.target = kept.target if path is None else path
        return kept

    def _claim(self, path: str, form: object, made: Made) -> str:
        """The path of a layer in a form."""
        strided = self._strided.setdefault(path, self.root.get_submodule(path))
        if (path, form) in self._forms:
            return self._forms[path, form]
        if not any(known == path for known, _ in self._forms):
            self.root.set_submodule(path, made(strided))
            self._forms[path, form] = path
        elif strided.state_dict():
            raise NetworkError(
                f"{path} is called several times, and its calls would need other paddings or strides of one layer: "
                "give each its own"
            )
        else:
            parent, _, own = path.rpartition(".")
            own = f"{own}_dense{len(self._forms)}"
            self.root.get_submodule(parent).add_module(own, made(strided))
            self._forms[path, form] = f"{parent}.{own}" if parent else own
        return self._forms[path, form]

    def _free(self, kind: str) -> str:
        self._number += 1
        while hasattr(self.root, name := f"smp_{kind}_{self._number}"):
            self._number += 1
        return name


def with_settings(layer: nn.Module, **settings: Any) -> nn.Module:
    """A layer with other settings and the very same parameters, buffers and hooks."""
    # Parametrized modules refuse to be copied by copy.copy.
    made = type(layer).__new__(type(layer))
    made.__dict__.update(layer.__dict__)
    for name in ("_parameters", "_buffers", "_modules", "_forward_pre_hooks", "_forward_hooks"):
        made.__dict__[name] = copy.copy(layer.__dict__[name])
    made.__dict__.update(settings)
    return made
