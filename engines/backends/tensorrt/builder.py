"""Engines from ONNX files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from engines.backends.tensorrt.flavours import Flavour
from engines.backends.tensorrt.inspection import Inspection, check_effective_precision, inspection_of_plan
from engines.backends.tensorrt.limits import check_tensor_sizes, tensors_at
from engines.backends.tensorrt.logger import BuildLog, OnLog, trt_logger
from engines.backends.tensorrt.progress import BuildProgress, OnProgress, interruptible, trt_monitor
from engines.backends.tensorrt.settings import BuildConfig, settings_from_config
from engines.backends.tensorrt.tactics import TacticCache, check_replayed
from engines.backends.tensorrt.timing import (
    add_to_timing_cache,
    load_timing_cache,
    save_timing_cache,
    timing_cache_content,
)
from engines.bundle.onnx_files import module_of_node
from engines.bundle.records import EngineLayers, Tactic
from engines.devices.cuda import CudaDevice
from engines.devices.gpus import gpus
from engines.devices.names import DeviceName
from engines.errors import BackendError, NetworkError
from engines.schedules.schedule import Precision

__all__ = ["BuildConfig", "BuildListener", "BuiltEngine", "engine_from_onnx"]

_TYPE_NAMES = {
    Precision.FP32: "FLOAT",
    Precision.TF32: "FLOAT",
    Precision.FP16: "HALF",
    Precision.BF16: "BF16",
    Precision.INT8: "INT8",
}


@dataclass(frozen=True)
class BuildListener:
    """Who hears of a build while it runs. An exception of theirs ends the build and is raised from it."""

    on_progress: OnProgress | None = None
    on_log: OnLog | None = None


@dataclass(frozen=True)
class BuiltEngine:
    """A serialized engine and what is known of its making."""

    plan: bytes
    """As TensorRT gave it, with nothing in front: ``trtexec --loadEngine`` reads it."""
    flavour: Flavour
    version: str
    precisions: dict[str, int]
    """Convolutions by the type of their output, ``{"HALF": 21}``, as the builder was given them; ``INT8`` where their
    input is dequantized."""
    effective: dict[str, int] | str
    """Convolutions by the type they compute in, read back from the engine, or ``"not read: ..."``."""
    input_shape: tuple[int, ...]
    """Of the largest sub-batch."""
    layers: EngineLayers | str
    """Read back from the engine, or ``"not read: ..."``."""
    tactics: tuple[Tactic, ...] | None
    """The kernels that TensorRT chose, where they were to be recorded."""
    build_s: float


def engine_from_onnx(
    graph: Path,
    flavour: Flavour,
    config: BuildConfig,
    listener: BuildListener | None = None,
    device: DeviceName | None = None,
) -> BuiltEngine:
    """Build a strongly typed engine from an ONNX file whose first input has a free first axis, or none.

    It is built for ``device``, the first GPU by default, where there is one.

    An interrupt stops the build at TensorRT's next step and is raised again.

    Raises:
        MissingDependency: the flavour is not installed.
        NetworkError: TensorRT cannot parse the graph; the message names its nodes and the network's layers.
        BackendError: TensorRT refuses an option or the build, with its own words; the graph's
            convolutions are not in the precision asked for, or the engine does not compute in it; a tensor is larger
            than TensorRT takes.
        CheckFailed: the engine is not built of the tactics that it was to be built of; the message names the first.
        InputError: the timing cache cannot be used.
        OutputError: the timing cache cannot be written.
    """
    listener = listener or BuildListener()
    trt = flavour.load()
    log, progress = BuildLog(listener.on_log), BuildProgress(listener.on_progress, _builds(config))
    build = _Build(flavour, trt, config, log, progress)

    def work() -> BuiltEngine:
        # TensorRT builds for the device that is current in its thread: the first, unless another one is made so.
        with (
            CudaDevice(device.index, flavour.extra).current() if device is not None and device.index else nullcontext()
        ):
            return build.engine(graph)

    # All of it: TensorRT calls back while it parses, too.
    return interruptible(work, progress)


@dataclass(frozen=True)
class _Build:
    flavour: Flavour
    trt: Any
    config: BuildConfig
    log: BuildLog
    progress: BuildProgress

    def engine(self, graph: Path) -> BuiltEngine:
        trt, log, config = self.trt, self.log, self.config
        name = f"{self.flavour.module} {trt.__version__}"
        started = time.monotonic()
        logger = trt_logger(trt, log)
        try:
            builder = trt.Builder(logger)
        except TypeError as error:
            # What the bindings raise when TensorRT gives no builder, for want of a GPU or its driver.
            raise BackendError(f"{name} cannot build here: {log.why()}") from error
        # The parser owns weights of the network: it lives as long.
        network, _parser = _parsed(trt, builder, logger, graph, name)
        precisions = _checked_precisions(trt, network, graph, config)
        settings = settings_from_config(trt, builder, config, log)
        shape = _shape_with_profile(builder, network, settings, config, log)
        check_tensor_sizes(tensors_at(network, shape))
        # The settings keep no reference to it.
        monitor = trt_monitor(trt, self.progress)
        settings.progress_monitor = monitor

        def serialized(how: str = "") -> bytes:
            plan = builder.build_serialized_network(network, settings)
            for failure in (self.progress.failure, log.failure):
                if failure is not None:
                    raise failure
            if plan is None:
                raise BackendError(f"{name} cannot build {graph.name}{how}: {log.why()}")
            self.progress.built()
            return bytes(plan)

        plan, tactics = self._built(settings, graph.name, serialized)
        build_s = round(time.monotonic() - started, 3)
        found = self._inspection(logger, plan, shape)
        self.progress.complete()
        return BuiltEngine(
            plan, self.flavour, trt.__version__, precisions, found.types, shape, found.layers, tactics, build_s
        )

    def _built(
        self, settings: Any, graph: str, serialized: Callable[..., bytes]
    ) -> tuple[bytes, tuple[Tactic, ...] | None]:
        """The plan, and the tactics where they are asked for."""
        wanted, path = self.config.tactics, self.config.options.timing_cache
        if wanted is not None:
            # The keys are in the cache that was kept; else a build makes them, and is thrown away.
            pinned = TacticCache(self.trt, settings, b"" if path is None else timing_cache_content(path))
            if path is None:
                serialized()
            pinned.pin(wanted, graph)
            plan = serialized(" with the recorded tactics alone")
            tactics = pinned.tactics()
            check_replayed(wanted, tactics, graph)
            return plan, tactics
        if self.config.record_tactics:
            fresh = TacticCache(self.trt, settings)
            plan, tactics = serialized(), fresh.tactics()
            if path is not None:
                add_to_timing_cache(settings, path)
            return plan, tactics
        # TensorRT-RTX times nothing, and its calls for a timing cache are deprecated.
        if path is None or self.flavour.portable:
            return serialized(), None
        load_timing_cache(settings, path)
        plan = serialized()
        save_timing_cache(settings, path)
        return plan, None

    def _inspection(self, logger: Any, plan: bytes, shape: tuple[int, ...]) -> Inspection:
        if not gpus():
            found = Inspection.absent("there is no GPU")
        else:
            found = inspection_of_plan(self.trt, logger, self.log, plan, self.flavour, shape)
        if self.config.precision is None:
            return replace(found, types="not read: the graph has no convolutions")
        if isinstance(found.types, dict):
            check_effective_precision(found.types, self.config.precision, _expected(self.config))
        return found


def _builds(config: BuildConfig) -> int:
    """How often TensorRT builds for one engine."""
    return 2 if config.tactics is not None and config.options.timing_cache is None else 1


def _parsed(trt: Any, builder: Any, logger: Any, graph: Path, name: str) -> tuple[Any, Any]:
    # Needed on TensorRT 10, without effect on 11 and RTX, where every network is strongly typed.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        content = graph.read_bytes()
        reasons = "; ".join(_parse_error(parser.get_error(index), content) for index in range(parser.num_errors))
        raise NetworkError(f"{name} cannot parse {graph.name}: {reasons}")
    return network, parser


def _parse_error(parse_error: Any, content: bytes) -> str:
    """What the parser refuses: the node of the graph, the layer of the network, and the parser's own words."""
    said = f"{parse_error.code().name}: {parse_error.desc()}"
    node = parse_error.node_name()
    if not node:
        return said
    module = module_of_node(content, node)
    layer = f", of the layer {module}" if module else ""
    return (
        f"the operator {parse_error.node_operator()} of the node {node}{layer} ({said}); replace it, and export again"
    )


def _checked_precisions(trt: Any, network: Any, graph: Path, config: BuildConfig) -> dict[str, int]:
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantized = {layer.get_output(0).name for layer in layers if layer.type == trt.LayerType.DEQUANTIZE}
    found = Counter(
        "INT8" if layer.get_input(0).name in dequantized else layer.get_output(0).dtype.name
        for layer in layers
        if layer.type == trt.LayerType.CONVOLUTION
    )
    if config.precision is None:
        return dict(found)
    expected = _expected(config)
    right = set(found) == {_TYPE_NAMES[config.precision]} if expected is None else found == expected
    if not right:
        wanted = "" if expected is None else f" with {dict(expected)} convolutions"
        raise BackendError(
            f"{graph.name} was to be {config.precision.value}{wanted}, but its convolutions are {dict(found)}; "
            "export it again"
        )
    return dict(found)


def _expected(config: BuildConfig) -> Counter[str] | None:
    """Convolutions by TensorRT's names of types, where their numbers are known."""
    if config.convolutions is None:
        return None
    return Counter({_TYPE_NAMES[precision]: count for precision, count in config.convolutions.items()})


def _shape_with_profile(
    builder: Any, network: Any, settings: Any, config: BuildConfig, log: BuildLog
) -> tuple[int, ...]:
    """The largest shape of the input; a dynamic first axis gets its optimization profile."""
    source = network.get_input(0)
    declared = tuple(source.shape)
    if -1 not in declared:
        return declared
    shapes = [(size, *declared[1:]) for size in (1, config.sub_batch, config.sub_batch)]
    profile = builder.create_optimization_profile()
    profile.set_shape(source.name, *shapes)
    if settings.add_optimization_profile(profile) < 0:
        raise BackendError(f"TensorRT refuses inputs of {shapes}: {log.why()}")
    return shapes[-1]
