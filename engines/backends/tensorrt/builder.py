"""Engines from ONNX files."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.backends.tensorrt.flavours import import_tensorrt
from engines.errors import BackendError
from engines.manifest import Flavour, Precision

_CONVOLUTION_TYPES = {Precision.FP32: "FLOAT", Precision.FP16: "HALF"}


@dataclass(frozen=True)
class BuildConfig:
    """How to build."""

    precision: Precision
    """The arithmetic that the graph must have: precision is in the graph, no builder flag changes it."""
    sub_batch: int = 1
    """The largest and best-tuned first axis; from 1 on all are accepted."""
    flavour: Flavour | None = None
    """``None`` takes what is installed, TensorRT proper before TensorRT-RTX."""


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine and what is known of its making."""

    plan: bytes
    """As TensorRT gave it, with nothing in front: ``trtexec --loadEngine`` reads it."""
    flavour: Flavour
    version: str
    precisions: dict[str, int]
    """Convolutions by the type of their output, ``{"HALF": 21}``, as the builder was given them."""
    input_shape: tuple[int, ...]
    """Of the largest sub-batch."""
    build_s: float


def engine_from_onnx(graph: Path, config: BuildConfig) -> BuiltEngine:
    """Build a strongly typed engine from an ONNX file whose first input has a free first axis.

    Raises:
        MissingDependency: no TensorRT is installed.
        BackendError: TensorRT refuses the graph or the build, with its own words; or the graph's convolutions
            are not in the precision asked for.
    """
    flavour, trt = import_tensorrt(config.flavour)
    started = time.monotonic()
    logger = _logger(trt)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:
        # What the bindings raise when TensorRT gives no builder, for want of a GPU or its driver.
        raise BackendError(f"{flavour.value} {trt.__version__} cannot build here: {_why(logger.errors)}") from error
    # Needed on TensorRT 10, without effect on 11 and RTX, where every network is strongly typed.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        reasons = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise BackendError(f"{flavour.value} {trt.__version__} cannot parse {graph.name}: {reasons}")
    precisions = _convolution_types(trt, network)
    wanted = _CONVOLUTION_TYPES[config.precision]
    if set(precisions) != {wanted}:
        raise BackendError(
            f"{graph.name} was to be {config.precision.value}, but its convolutions are {precisions}; export it again"
        )
    source = network.get_input(0)
    shapes = [(size, *tuple(source.shape)[1:]) for size in (1, config.sub_batch, config.sub_batch)]
    profile = builder.create_optimization_profile()
    profile.set_shape(source.name, *shapes)
    settings = builder.create_builder_config()
    if settings.add_optimization_profile(profile) < 0:
        raise BackendError(f"{flavour.value} {trt.__version__} refuses inputs of {shapes}: {_why(logger.errors)}")
    serialized = builder.build_serialized_network(network, settings)
    if serialized is None:
        raise BackendError(f"{flavour.value} {trt.__version__} cannot build {graph.name}: {_why(logger.errors)}")
    return BuiltEngine(
        plan=bytes(serialized),
        flavour=flavour,
        version=trt.__version__,
        precisions=precisions,
        input_shape=shapes[-1],
        build_s=round(time.monotonic() - started, 3),
    )


def _convolution_types(trt: Any, network: Any) -> dict[str, int]:
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return dict(Counter(layer.get_output(0).dtype.name for layer in layers if layer.type == trt.LayerType.CONVOLUTION))


def _logger(trt: Any) -> Any:
    class Collector(trt.ILogger):  # type: ignore[misc]
        """Keeps TensorRT's errors for the message of the exception, and is silent otherwise."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT."""
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Collector()


def _why(errors: list[str]) -> str:
    text = "; ".join(errors) or "it gave no reason"
    if "memory" in text.lower() or "could not find any implementation" in text.lower():
        # TensorRT reports a tactic that did not fit as a missing implementation.
        return f"{text} (the memory of this device does not suffice; choose a smaller --sub-batch)"
    return text
