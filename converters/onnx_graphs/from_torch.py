"""ONNX from PyTorch modules, through ``torch.onnx``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from converters.onnx_graphs.naming import name_for_people
from engines.errors import MissingDependency, NetworkError

if TYPE_CHECKING:
    import onnx_ir as ir

OPSETS = range(18, 24)
"""ONNX opsets that can be written. 18 is the exporter's own, and every supported TensorRT reads it."""

DEFAULT_OPSET = 18


def onnx_from_torch(
    module: nn.Module, example: Tensor, *, input_name: str, output_name: str, opset: int, batch: str | None = None
) -> ir.Model:
    """Export a module of one input and one output.

    Args:
        module: in evaluation mode.
        example: an input; sizes are taken from it, values are not looked at.
        input_name: name of the input in the graph.
        output_name: name of the output in the graph.
        opset: one of :data:`OPSETS`.
        batch: name of a first axis of any size, or ``None`` for an input without one; ``example`` then has a
            batch of at least 2.

    Raises:
        NetworkError: ``torch.onnx`` does not support something in the network.
        MissingDependency: onnxscript is not installed.
    """
    if opset not in OPSETS:
        raise NetworkError(f"opset {opset} is not supported; choose one from {OPSETS.start} to {OPSETS.stop - 1}")
    dynamic = (None if batch is None else {0: torch.export.Dim(batch)},)
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[input_name],
                output_names=[output_name],
                dynamic_shapes=dynamic,
                verbose=False,
            )
    except ImportError as error:
        raise MissingDependency(str(error.name), "export") from error
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        raise NetworkError(f"torch.onnx cannot export the network: {_first_line(cause)}") from error
    assert program is not None
    model: ir.Model = program.model
    name_for_people(model)
    return model


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
