"""ONNX from PyTorch modules, through ``torch.onnx``."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from converters.graphs.naming import name_for_people
from converters.graphs.simplifying import simplify
from engines.errors import MissingDependency, NetworkError

if TYPE_CHECKING:
    import onnx_ir as ir

OPSETS = range(18, 24)
"""ONNX opsets that can be written. 18 is the exporter's own, and every supported TensorRT reads it."""

DEFAULT_OPSET = 18


def onnx_from_torch(
    stage: nn.Module, inputs: Mapping[str, Tensor], *, output_name: str, opset: int, batch: str | None = None
) -> ir.Model:
    """Export a stage of one output.

    Args:
        stage: a module of :mod:`converters.graphs.stages`, in evaluation mode. Its nodes get the identities of
            :mod:`converters.graphs.identity`.
        inputs: names of the inputs in the graph, in the order of the stage's arguments, and an example of each;
            sizes are taken from it, values are not looked at.
        output_name: name of the output in the graph.
        opset: one of :data:`OPSETS`.
        batch: name of a first axis of any size of the first input, or ``None`` for an input without one; its
            example then has a batch of at least 2, since one would be taken for a constant.

    Raises:
        NetworkError: ``torch.onnx`` does not support something in the network.
        MissingDependency: onnxscript is not installed.
    """
    if opset not in OPSETS:
        raise NetworkError(f"opset {opset} is not supported; choose one from {OPSETS.start} to {OPSETS.stop - 1}")
    dynamic: list[dict[int, Any] | None] = [None] * len(inputs)
    if batch is not None:
        dynamic[0] = {0: torch.export.Dim(batch)}
    try:
        with _quiet_exporter(), _one_registry():
            program = torch.onnx.export(
                stage,
                tuple(inputs.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(inputs),
                output_names=[output_name],
                dynamic_shapes=tuple(dynamic),
                optimize=False,
                verbose=False,
            )
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise NetworkError(f"torch.onnx cannot export the network: {_first_line(cause)}") from error
    assert program is not None
    model: ir.Model = program.model
    simplify(model)
    name_for_people(model, stage)
    return model


@contextmanager
def _one_registry() -> Iterator[None]:
    """Let exports share what ``torch.onnx`` knows of operators, which each of them builds anew: a third of its time.

    It is read alone, where no operators of one's own are given. A version that keeps it elsewhere builds it as before.
    """
    home = import_module("torch.onnx._internal.exporter._registration")
    registry = getattr(home, "ONNXRegistry", None)
    build = getattr(registry, "from_torchlib", None)
    kept = vars(registry).get("from_torchlib") if registry is not None else None
    if build is None or kept is None:
        yield
        return
    assert registry is not None
    # Asked of an object of the class, too.
    registry.from_torchlib = staticmethod(_registries.setdefault(kept, functools.cache(build)))
    try:
        yield
    finally:
        registry.from_torchlib = kept


_registries: dict[Any, Any] = {}
"""By PyTorch's own function: the one that remembers what it gave."""


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says of torchvision's absence and of PyTorch's own deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
