"""The processor of this machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def processor_title() -> str:
    """The processor's name and the cores that this process may use, which a measurement holds for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{processor_name()}, {cores} cores"


def processor_name() -> str:
    """The processor as the system names it; its architecture where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        field, _, value = line.partition(":")
        # ARM's kernels give no name but the numbers of implementer and part.
        if field.strip() in ("model name", "Model") and value.strip():
            return value.strip()
    return platform.processor() or platform.machine()
