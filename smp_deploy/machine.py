"""What this machine can do: runtimes, providers, GPUs, versions, what is missing and how to get it."""

from __future__ import annotations

import importlib
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from engines.devices.gpus import gpus
from engines.planning.tunings import device_of, runtime_of
from smp_deploy import __version__

_NEEDS_GPU = "needs an NVIDIA GPU"

_PACKAGES = (
    ("export and validate", "export", ("torch", "onnx", "onnxscript", "onnx-ir", "safetensors", "polygraphy")),
    ("train and evaluate checkpoints", "train", ("torch", "safetensors", "tensorboardX", "matplotlib")),
    ("report", "report", ("jinja2", "matplotlib")),
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
    """Operating system, processor, Python and memory."""
    return {
        "smp-deploy": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.1f} GiB",
    }


def available_bytes() -> int:
    """Memory that can be had without swapping."""
    return int(psutil.virtual_memory().available)


def measured_with(backend: str) -> dict[str, str]:
    """What a measurement was made with: :func:`machine_facts`, and device and runtime of the backend."""
    return {**machine_facts(), "device": device_of(backend), "runtime": runtime_of(backend)}


def capabilities() -> list[Capability]:
    """Everything that can be looked up in a few seconds. Nothing is computed on a GPU."""
    return [
        *(_packages(*entry) for entry in _PACKAGES),
        _onnxruntime_cpu(),
        _onnxruntime_cuda(),
        _tensorrt(),
        _tensorrt_rtx(),
        _gpu(),
    ]


def _packages(name: str, extra: str, packages: tuple[str, ...]) -> Capability:
    found = {package: _version(package) for package in packages}
    missing = [package for package, known in found.items() if known is None]
    shown = ", ".join(f"{package} {known}" for package, known in found.items() if known)
    remedy = f"lacks {', '.join(missing)}: {_install(extra)}" if missing else ""
    return Capability(name, not missing, shown or "none of its packages", remedy)


def _onnxruntime_cpu() -> Capability:
    name = "run and validate on the CPU (ONNX Runtime)"
    return _probe(name, "onnxruntime", _install("ort"), lambda ort: (True, f"onnxruntime {ort.__version__}", ""))


def _onnxruntime_cuda() -> Capability:
    def look(ort: Any) -> tuple[bool, str, str]:
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            return False, f"onnxruntime {ort.__version__} is built without CUDA", "install onnxruntime-gpu"
        if not gpus():
            return False, f"onnxruntime {ort.__version__} has the provider, but there is no GPU", _NEEDS_GPU
        return True, f"onnxruntime {ort.__version__}, CUDAExecutionProvider", ""

    return _probe("run on a GPU (ONNX Runtime)", "onnxruntime", _install("ort"), look)


def _tensorrt() -> Capability:
    def look(trt: Any) -> tuple[bool, str, str]:
        if not gpus():
            return False, f"tensorrt {trt.__version__}, but there is no GPU", _NEEDS_GPU
        return True, f"tensorrt {trt.__version__}", ""

    remedy = f"{_install('tensorrt')}; on Jetson and DRIVE it comes with the system"
    return _probe("build TensorRT engines", "tensorrt", remedy, look)


def _tensorrt_rtx() -> Capability:
    name, remedy = "build TensorRT-RTX engines", _install("tensorrt-rtx")
    return _probe(name, "tensorrt_rtx", remedy, lambda trt: (True, f"tensorrt_rtx {trt.__version__}", ""))


def _gpu() -> Capability:
    found = [gpu.name for gpu in gpus()]
    return Capability("NVIDIA GPU", bool(found), ", ".join(found) or "the CUDA driver finds none")


def _probe(name: str, module: str, remedy: str, look: Callable[[Any], tuple[bool, str, str]]) -> Capability:
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError:
        return Capability(name, False, f"{module} is not installed", remedy)
    except (ImportError, OSError) as error:
        # Installed, but a library it links to is missing: the reason is worth more than the install command.
        return Capability(name, False, f"{module} cannot be loaded: {error}", remedy)
    return Capability(name, *look(loaded))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _install(extra: str) -> str:
    return f"pip install 'smp-deploy[{extra}]'"
