"""What an engine really computes in, read back from the engine itself.

A tool that asks TensorRT 11 for FP16 through a builder flag gets an FP32 engine and a good exit code. So the precision
is read from the layers of the finished engine.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from engines.backends.tensorrt.flavours import Flavour
from engines.backends.tensorrt.logger import BuildLog
from engines.errors import BackendError
from engines.schedules.schedule import Precision

_WORDS = {"INT8": ("int8",), "BF16": ("bf16", "bfloat16"), "HALF": ("fp16", "half"), "FLOAT": ("fp32", "float")}
"""Types of the network definition, and how the inspector writes them; the first that fits counts."""


def convolution_types_from_inspection(document: str) -> dict[str, int]:
    """Convolutions by the type they compute in, ``{"HALF": 21}``, from an inspector's JSON of a whole engine.

    TensorRT 10 writes ``Layers`` and ``Bindings``, TensorRT 11 ``Layers`` and ``I/O Tensors``; the layers decide.
    The type is that of the weights where the inspector gives it, else the narrowest of the layer's tensors: a
    convolution may take a cast along. ``UNKNOWN`` counts layers whose types the inspector does not say. Raises
    :class:`BackendError` for a document without layers, or with their names only.
    """
    try:
        layers = json.loads(document)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError("the engine inspector gave no list of layers") from error
    if not all(isinstance(entry, dict) for entry in layers):
        raise BackendError("the engine inspector gave the names of layers only; build with detailed verbosity")
    return dict(Counter(_type_of(entry) for entry in layers if _is_convolution(entry)))


def check_effective_precision(
    types: dict[str, int], precision: Precision, expected: Mapping[str, int] | None = None
) -> None:
    """Raise :class:`BackendError` for an engine that computes more convolutions in FP32 than its graph does.

    Args:
        types: convolutions of the engine by type.
        precision: of the graph.
        expected: convolutions of the graph by type; ``None`` for all of them in ``precision``.
    """
    if precision.graph is not Precision.FP32 and types.get("FLOAT", 0) > (expected or {}).get("FLOAT", 0):
        shown = ", ".join(f"{count} {kind}" for kind, count in types.items())
        raise BackendError(f"the engine was to be {precision.value}, but its convolutions compute in: {shown}")


def effective_types(
    trt: Any, logger: Any, log: BuildLog, plan: bytes, flavour: Flavour, shape: tuple[int, ...]
) -> dict[str, int] | str:
    """Convolutions of a plan by the type they compute in, on the GPU; else ``"not read: ..."``.

    ``shape`` is that of the largest input. Raises :class:`BackendError` when TensorRT proper cannot load what it
    has built on this very GPU. TensorRT-RTX also builds for GPUs that it cannot load on.
    """
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        if not flavour.portable:
            raise BackendError(f"TensorRT {trt.__version__} cannot load the engine that it has built: {log.why()}")
        return f"not read: this GPU does not load the engine: {log.why()}"
    inspector = engine.create_engine_inspector()
    # With a dynamic axis the inspector says nothing of formats unless a context fixes the shape. This context owns no
    # memory and runs nothing.
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is not None:
        context.set_input_shape(engine.get_tensor_name(0), shape)
        inspector.execution_context = context
    types = convolution_types_from_inspection(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    if not types or set(types) == {"UNKNOWN"}:
        return "not read: the engine inspector says nothing of the convolutions' types"
    return types


def _is_convolution(entry: dict[str, Any]) -> bool:
    kind = f"{entry.get('LayerType', '')} {entry.get('ParameterType', '')}".lower()
    # A 1x1 convolution may run as a matrix product; what it was is in the metadata.
    return "conv" in kind or ("gemm" in kind and "conv" in str(entry.get("Metadata", "")).lower())


def _type_of(entry: dict[str, Any]) -> str:
    weights = entry.get("Weights")
    if isinstance(weights, dict) and "Type" in weights:
        return _narrowest([str(weights["Type"])])
    tensors = [*entry.get("Inputs", ()), *entry.get("Outputs", ())]
    return _narrowest([str(tensor.get("Format/Datatype", tensor.get("Datatype", ""))) for tensor in tensors])


def _narrowest(texts: list[str]) -> str:
    text = " ".join(texts).lower()
    return next((kind for kind, words in _WORDS.items() if any(word in text for word in words)), "UNKNOWN")
