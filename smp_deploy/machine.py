"""What this machine can do: runtimes, providers, GPUs, versions, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import psutil

from engines.backends import BACKENDS
from engines.backends.base import Backend
from engines.backends.versions import installed_version
from engines.devices.gpus import gpus
from engines.devices.processor import vector_instructions
from engines.errors import install_command
from engines.planning.tunings import here
from smp_deploy import __version__

_PACKAGES = (
    ("export and validate", "export", ("torch", "onnx", "onnxscript", "onnx-ir", "safetensors", "polygraphy")),
    ("train and evaluate checkpoints", "train", ("torch", "safetensors", "tensorboardX", "matplotlib")),
    ("report", "report", ("jinja2", "matplotlib")),
    ("sign and verify", "sign", ("cryptography",)),
)
"""What takes nothing but packages: its name, the extra, and the packages."""


@dataclass(frozen=True)
class Capability:
    """One thing a machine may be able to do."""

    name: str
    available: bool
    found: str
    """What is there, with its version, or what is missing."""
    remedy: str = ""
    """How to get it, where it is missing."""


def machine_facts() -> dict[str, str]:
    """Operating system, processor and its vector instructions, Python and memory."""
    return {
        "smp-deploy": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "instructions": ", ".join(vector_instructions()) or "unknown",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
    }


def measured_with(backend: Backend, device: str | None = None) -> dict[str, str]:
    """What a measurement was made with: :func:`machine_facts`, and device and runtime of the backend."""
    title, runtime = here(backend, device)
    return {**machine_facts(), "device": title, "runtime": runtime}


def capabilities() -> list[Capability]:
    """Everything that can be looked up in a few seconds. Nothing is computed on a GPU."""
    return [
        *(_packages(*entry) for entry in _PACKAGES),
        *(_backend(backend) for backend in BACKENDS),
        _gpu(),
    ]


def _packages(name: str, extra: str, packages: tuple[str, ...]) -> Capability:
    found = {package: installed_version(package) for package in packages}
    missing = [package for package, known in found.items() if known is None]
    shown = ", ".join(f"{package} {known}" for package, known in found.items() if known)
    remedy = f"lacks {', '.join(missing)}: {install_command(extra)}" if missing else ""
    return Capability(name, not missing, shown or "none of its packages", remedy)


def _backend(backend: Backend) -> Capability:
    support = backend.support()
    return Capability(backend.title, support.available, support.found, support.remedy)


def _gpu() -> Capability:
    found = [gpu.name for gpu in gpus()]
    return Capability("NVIDIA GPU", bool(found), ", ".join(found) or "the CUDA driver finds none")
