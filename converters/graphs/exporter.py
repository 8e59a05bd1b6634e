"""``torch.onnx`` without work that gives nothing, and without words that concern nobody.

Two thirds of an export's time went into building the registry of operators anew for every graph, and into tracing the
exported program a second time to decompose operators that ONNX has no counterpart of, also where it has none of those.
Both are held back from the inside of ``torch.onnx``: a version that is built otherwise does as it always did. Every
graph that is written is compared with PyTorch, so nothing rests on what is held back.
"""

from __future__ import annotations

import functools
import logging
import operator
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch

_HOME = "torch.onnx._internal.exporter"


@contextmanager
def quick_exporter() -> Iterator[None]:
    """Let exports share what ``torch.onnx`` knows of operators, and decompose only where something has to be."""
    registration, passes = _module("_registration"), _module("_fx_passes")
    registry = getattr(registration, "ONNXRegistry", None)
    build, decompose = getattr(registry, "from_torchlib", None), getattr(passes, "decompose_with_registry", None)
    if registry is None or build is None or decompose is None:
        yield
        return
    kept = vars(registry).get("from_torchlib")
    # Asked of an object of the class, too.
    registry.from_torchlib = staticmethod(_registries.setdefault(kept, functools.cache(build)))
    passes.decompose_with_registry = functools.partial(_decomposed, decompose)
    try:
        yield
    finally:
        registry.from_torchlib = kept
        passes.decompose_with_registry = decompose


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says of torchvision's absence and of PyTorch's own deprecations."""
    logger = logging.getLogger(f"{_HOME}._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


_registries: dict[Any, Any] = {}
"""By PyTorch's own function: the one that remembers what it gave."""


def _decomposed(decompose: Any, program: torch.export.ExportedProgram, registry: Any) -> torch.export.ExportedProgram:
    """The program as it is, where ``decompose`` would leave every operator of it alone.

    It keeps those that the registry knows, and takes assignments apart.
    """
    known = {held[0].fx_target for held in registry.functions.values()}
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, torch.fx.GraphModule)]
    done = all(
        node.target in known and not _assigns(node.target)
        for graph in graphs
        for node in graph.nodes
        if node.op == "call_function" and node.target is not operator.getitem
    )
    return program if done else decompose(program, registry)


def _assigns(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _module(name: str) -> Any:
    try:
        return import_module(f"{_HOME}.{name}")
    except ImportError:
        return None
