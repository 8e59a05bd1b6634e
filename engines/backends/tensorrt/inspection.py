"""What an engine really is, read back from the engine itself: its layers, and what they compute in.

A tool that asks TensorRT 11 for FP16 through a builder flag gets an FP32 engine and a good exit code. So the precision
is read from the layers of the finished engine. The layers and their kernels are also what tells two builds apart.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engines.backends.tensorrt.flavours import Flavour
from engines.backends.tensorrt.logger import BuildLog
from engines.bundle.records import EngineLayer, EngineLayers
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
    layers = _entries(document)
    return dict(Counter(_type_of(entry) for entry in layers if _is_convolution(entry)))


def layers_from_inspection(document: str) -> EngineLayers:
    """The layers of an engine with their kernels and tensors, from the same JSON. Raises as above."""
    return EngineLayers.of(
        EngineLayer(
            name=str(entry.get("Name", "")),
            kind=_said(entry, "LayerType", "ParameterType"),
            tactic=_said(entry, "TacticName", "TacticValue"),
            inputs=tuple(_tensor(tensor) for tensor in entry.get("Inputs", ())),
            outputs=tuple(_tensor(tensor) for tensor in entry.get("Outputs", ())),
        )
        for entry in _entries(document)
    )


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


@dataclass(frozen=True)
class Inspection:
    """What was read back of an engine; a text ``"not read: ..."`` says why not."""

    types: dict[str, int] | str
    """Convolutions by the type they compute in."""
    layers: EngineLayers | str

    @classmethod
    def absent(cls, reason: str) -> Inspection:
        """Nothing was read."""
        return cls(f"not read: {reason}", f"not read: {reason}")


def inspection_of_plan(
    trt: Any, logger: Any, log: BuildLog, plan: bytes, flavour: Flavour, shape: tuple[int, ...]
) -> Inspection:
    """Load a plan on the GPU and ask TensorRT's inspector for its layers.

    ``shape`` is that of the largest input. Raises :class:`BackendError` when TensorRT proper cannot load what it
    has built on this very GPU. TensorRT-RTX also builds for GPUs that it cannot load on.
    """
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        if not flavour.portable:
            raise BackendError(f"TensorRT {trt.__version__} cannot load the engine that it has built: {log.why()}")
        return Inspection.absent(f"this GPU does not load the engine: {log.why()}")
    inspector = engine.create_engine_inspector()
    # With a dynamic axis the inspector says nothing of formats unless a context fixes the shape. This context owns no
    # memory and runs nothing.
    context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    if context is not None:
        context.set_input_shape(engine.get_tensor_name(0), shape)
        inspector.execution_context = context
    document = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    types = convolution_types_from_inspection(document)
    if not types or set(types) == {"UNKNOWN"}:
        said: dict[str, int] | str = "not read: the engine inspector says nothing of the convolutions' types"
    else:
        said = types
    return Inspection(said, layers_from_inspection(document))


def _entries(document: str) -> list[dict[str, Any]]:
    try:
        layers = json.loads(document)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError("the engine inspector gave no list of layers") from error
    if not all(isinstance(entry, dict) for entry in layers):
        raise BackendError("the engine inspector gave the names of layers only; build with detailed verbosity")
    return list(layers)


def _said(entry: dict[str, Any], *names: str) -> str:
    return " ".join(str(entry[name]) for name in names if entry.get(name) not in (None, ""))


def _tensor(tensor: Any) -> str:
    """Type, layout and dimensions. Without its name: TensorRT makes up those between layers."""
    if not isinstance(tensor, dict):
        return str(tensor)
    sizes = "x".join(str(size) for size in tensor.get("Dimensions", ()))
    return f"{_said(tensor, 'Format/Datatype', 'Datatype')} {sizes}".strip()


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
