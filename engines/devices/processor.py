"""The processor of this machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_VECTOR_INSTRUCTIONS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2"),
)
"""On x86-64 and on ARM; the same network is several times as fast with some of them as without."""


def processor_title() -> str:
    """The processor's name and the cores that this process may use, which a measurement holds for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor_name()}, {cores} cores"


def processor_name() -> str:
    """The processor as the system names it; its architecture where the system does not say."""
    # ARM's kernels give no name but the numbers of implementer and part.
    return _cpuinfo("model name", "Model") or platform.processor() or platform.machine()


def vector_instructions() -> tuple[str, ...]:
    """The extensions that this processor's matrix products depend on, as Linux names them; none where it is silent."""
    flags = frozenset(_cpuinfo("flags", "Features").split())
    return tuple(name for name in _VECTOR_INSTRUCTIONS if name in flags)


def _cpuinfo(*fields: str) -> str:
    """The first of these fields that Linux fills in; an empty text where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        field, _, value = line.partition(":")
        if field.strip() in fields and value.strip():
            return value.strip()
    return ""
