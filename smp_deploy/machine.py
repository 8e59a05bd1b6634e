"""What this machine can do: runtimes, providers, GPUs, versions, what is missing and how to get it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from smp_deploy import __version__


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
        "memory": _memory(),
    }


def capabilities() -> list[Capability]:
    """Everything that can be looked up in a few seconds. Nothing is computed on a GPU."""
    return [
        _export(),
        _onnxruntime_cpu(),
        _onnxruntime_cuda(),
        _tensorrt("tensorrt", "TensorRT engines", "tensorrt"),
        _tensorrt("tensorrt_rtx", "TensorRT-RTX engines", "tensorrt-rtx"),
        _gpu(),
    ]


def _export() -> Capability:
    packages = ("torch", "onnx", "onnxscript", "onnx-ir", "safetensors")
    found = {package: _version(package) for package in packages}
    missing = [package for package, known in found.items() if known is None]
    shown = ", ".join(f"{package} {known}" for package, known in found.items() if known)
    remedy = f"lacks {', '.join(missing)}: {_install('export')}" if missing else ""
    return Capability("export and validate", not missing, shown or "none of its packages", remedy)


def _onnxruntime_cpu() -> Capability:
    name = "run on the CPU (ONNX Runtime)"
    return _probe(name, "onnxruntime", "ort", lambda ort: (True, f"onnxruntime {ort.__version__}", ""))


def _onnxruntime_cuda() -> Capability:
    def look(ort: Any) -> tuple[bool, str, str]:
        if "CUDAExecutionProvider" not in ort.get_available_providers():
            return False, f"onnxruntime {ort.__version__} is built without CUDA", "install onnxruntime-gpu"
        if _nvidia_smi() is None:
            return False, f"onnxruntime {ort.__version__} has the provider, but there is no GPU", "needs an NVIDIA GPU"
        return True, f"onnxruntime {ort.__version__}, CUDAExecutionProvider", ""

    return _probe("run on a GPU (ONNX Runtime)", "onnxruntime", "ort", look)


def _tensorrt(module: str, name: str, extra: str) -> Capability:
    def look(trt: Any) -> tuple[bool, str, str]:
        if module == "tensorrt" and _nvidia_smi() is None:
            return False, f"{module} {trt.__version__}, but there is no GPU", "needs an NVIDIA GPU to build and to run"
        where = "builds here, runs on RTX GPUs" if module == "tensorrt_rtx" else "builds and runs here"
        return True, f"{module} {trt.__version__}: {where}", ""

    return _probe(name, module, extra, look)


def _gpu() -> Capability:
    found = _nvidia_smi()
    return Capability("NVIDIA GPU", found is not None, found or "none that nvidia-smi can see", "")


def _probe(name: str, module: str, extra: str, look: Callable[[Any], tuple[bool, str, str]]) -> Capability:
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError:
        return Capability(name, False, f"{module} is not installed", _install(extra))
    except (ImportError, OSError) as error:
        # Installed, but a library it links to is missing: the reason is worth more than the install command.
        return Capability(name, False, f"{module} cannot be loaded: {error}", _install(extra))
    return Capability(name, *look(loaded))


def _nvidia_smi() -> str | None:
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        result = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(result.stdout.strip().splitlines()) or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _install(extra: str) -> str:
    return f"pip install 'smp-deploy[{extra}]'"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"
