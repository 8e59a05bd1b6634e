"""How an engine is built: the options, in trtexec's terms, and how they reach TensorRT."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engines.backends.tensorrt.logger import BuildLog
from engines.bundle.records import Tactic
from engines.errors import BackendError
from engines.schedules.schedule import Precision


class MemoryPool(enum.Enum):
    """Memory that a build can be held to. The pools of the DLA are left out: no SMP network runs there."""

    WORKSPACE = "workspace"
    """Scratch memory of a layer, not activations."""
    TACTIC_SHARED_MEMORY = "tactic-shared-mem"
    """Shared memory of a kernel."""


class HardwareCompatibility(enum.Enum):
    """Which other GPUs an engine shall run on."""

    NONE = "none"
    AMPERE_PLUS = "ampere-plus"
    SAME_COMPUTE_CAPABILITY = "same-compute-capability"


@dataclass(frozen=True)
class BuildOptions:
    """How TensorRT builds, in trtexec's terms. What is ``None`` is left to TensorRT."""

    optimization_level: int | None = None
    """0 to 5: higher builds longer and may run faster."""
    pool_limits: Mapping[MemoryPool, int] = field(default_factory=dict)
    """Bytes."""
    max_aux_streams: int | None = None
    """0 takes the least memory."""
    hardware_compatibility: HardwareCompatibility = HardwareCompatibility.NONE
    version_compatible: bool = False
    """The engine also runs on the next major version of TensorRT."""
    timing_cache: Path | None = None
    """Read where it exists, and written back. Of no effect with TensorRT-RTX, which times nothing."""

    def flags(self) -> dict[str, Any]:
        """What changes the engine, as the build record keeps it; bytes for pools."""
        return {
            "builder_optimization_level": self.optimization_level,
            "pool_limits": {pool.value: size for pool, size in sorted(self.pool_limits.items(), key=_pool_name)},
            "max_aux_streams": self.max_aux_streams,
            "hardware_compatibility_level": self.hardware_compatibility.value,
            "version_compatible": self.version_compatible,
            "profiling_verbosity": "detailed",
        }


@dataclass(frozen=True)
class BuildConfig:
    """What one graph must be, and how to build it."""

    precision: Precision | None
    """The arithmetic that the graph must have: precision is in the graph, and the one builder flag that changes it is
    that of TF32. ``None`` for a graph without convolutions, such as ``prepare.onnx``."""
    convolutions: Mapping[Precision, int] | None = None
    """How many convolutions the graph must have in which precision; ``None`` for all of them in ``precision``."""
    record_tactics: bool = False
    """Read from the builder which kernels it chose, of a timing cache that was empty before."""
    tactics: tuple[Tactic, ...] | None = None
    """The kernels to build with, and with no others; ``None`` leaves the choice to TensorRT."""
    sub_batch: int = 1
    """The largest and best-tuned first axis; from 1 on all are accepted. Without meaning for a static graph."""
    options: BuildOptions = field(default_factory=BuildOptions)


def settings_from_config(trt: Any, builder: Any, config: BuildConfig, log: BuildLog) -> Any:
    """TensorRT's builder configuration. Raises :class:`BackendError` for what this TensorRT does not take."""
    options, settings = config.options, builder.create_builder_config()
    # It is on by default, and TF32 is no fp32.
    if config.precision is Precision.TF32:
        settings.set_flag(trt.BuilderFlag.TF32)
    else:
        settings.clear_flag(trt.BuilderFlag.TF32)
    # Without it the inspector gives names of layers only, and the precision cannot be read back.
    settings.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.optimization_level is not None:
        settings.builder_optimization_level = options.optimization_level
    if options.max_aux_streams is not None:
        settings.max_aux_streams = options.max_aux_streams
    if options.version_compatible:
        settings.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    pools = {
        MemoryPool.WORKSPACE: trt.MemoryPoolType.WORKSPACE,
        MemoryPool.TACTIC_SHARED_MEMORY: trt.MemoryPoolType.TACTIC_SHARED_MEMORY,
    }
    for pool, size in options.pool_limits.items():
        settings.set_memory_pool_limit(pools[pool], size)
        # A limit that is refused is only logged.
        if settings.get_memory_pool_limit(pools[pool]) != size:
            raise BackendError(f"TensorRT {trt.__version__} refuses {size} bytes for {pool.value}: {log.why()}")
    if options.hardware_compatibility is not HardwareCompatibility.NONE:
        name = options.hardware_compatibility.name
        level = getattr(trt.HardwareCompatibilityLevel, name, None)
        if level is None:
            raise BackendError(f"TensorRT {trt.__version__} has no hardware compatibility level {name.lower()}")
        settings.hardware_compatibility_level = level
        if settings.hardware_compatibility_level != level:
            raise BackendError(f"TensorRT {trt.__version__} does not take hardware compatibility level {name.lower()}")
    return settings


def _pool_name(item: tuple[MemoryPool, int]) -> str:
    return item[0].value
