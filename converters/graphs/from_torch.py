"""ONNX from PyTorch modules, through ``torch.onnx``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from converters.graphs.exporter import quick_exporter, quiet_exporter
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
        with quiet_exporter(), quick_exporter():
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


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
