"""The same engines with trtexec, where smp-deploy is not at hand."""

from __future__ import annotations

import shlex
from pathlib import PurePath

from engines.backends.tensorrt.settings import BuildOptions, HardwareCompatibility, MemoryPool

_POOLS = {MemoryPool.WORKSPACE: "workspace", MemoryPool.TACTIC_SHARED_MEMORY: "tacticSharedMem"}
_LEVELS = {
    HardwareCompatibility.AMPERE_PLUS: "ampere+",
    HardwareCompatibility.SAME_COMPUTE_CAPABILITY: "sameComputeCapability",
}


def trtexec_lines(
    graph: str,
    source: str,
    shape: tuple[int, ...],
    sub_batch: int,
    options: BuildOptions | None = None,
    *,
    tf32: bool = False,
) -> list[str]:
    """The commands that build a trunk and its ``prepare.onnx``, as for a shell in the bundle's parent or in itself.

    Args:
        graph: path of the trunk; ``prepare.onnx`` lies beside it.
        source: name of the trunk's input.
        shape: of that input for one phase, ``(3, H', W')``.
        sub_batch: the largest and best-tuned first axis.
        options: flags. Precision is in the graph, so there is no flag for it but that of TF32.
        tf32: let convolutions in fp32 be computed in TF32, which trtexec does by default.
    """
    flags = [*_flags(options or BuildOptions()), *([] if tf32 else ["--noTF32"])]
    path = PurePath(graph)
    shapes = [
        f"--{which}Shapes={source}:{'x'.join(map(str, (size, *shape)))}"
        for which, size in (("min", 1), ("opt", sub_batch), ("max", sub_batch))
    ]
    plan = f"{path.stem}-b{sub_batch}.engine"
    prepare = path.with_name("prepare.onnx")
    return [
        shlex.join(["trtexec", f"--onnx={path}", *shapes, *flags, f"--saveEngine={plan}"]),
        shlex.join(["trtexec", f"--onnx={prepare}", *flags, "--saveEngine=prepare.engine"]),
    ]


def _flags(options: BuildOptions) -> list[str]:
    # Needed on TensorRT 10, without effect on 11.
    flags = ["--stronglyTyped"]
    if options.optimization_level is not None:
        flags.append(f"--builderOptimizationLevel={options.optimization_level}")
    if options.pool_limits:
        pools = ",".join(f"{_POOLS[pool]}:{_size(size)}" for pool, size in options.pool_limits.items())
        flags.append(f"--memPoolSize={pools}")
    if options.max_aux_streams is not None:
        flags.append(f"--maxAuxStreams={options.max_aux_streams}")
    if options.hardware_compatibility in _LEVELS:
        flags.append(f"--hardwareCompatibilityLevel={_LEVELS[options.hardware_compatibility]}")
    if options.version_compatible:
        flags.append("--versionCompatible")
    if options.timing_cache is not None:
        flags.append(f"--timingCacheFile={options.timing_cache}")
    return flags


def _size(size: int) -> str:
    """Bytes with the largest of trtexec's units that leaves a whole number; all are powers of 1024."""
    for unit, letter in ((2**30, "G"), (2**20, "M"), (2**10, "K")):
        if size % unit == 0:
            return f"{size // unit}{letter}"
    return f"{size}B"
