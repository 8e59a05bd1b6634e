"""What a measurement was made with, as far as the machine says."""

from __future__ import annotations

import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from engines.devices.cuda import import_cuda
from engines.devices.gpus import gpus
from engines.errors import MachineError
from smp_deploy.benchmarking.device_memory import Gauge


def machine_facts(gauge: Gauge | None) -> dict[str, str]:
    """By name: GPUs, driver, CUDA, cuDNN, runtimes, Python. What cannot be had is left out.

    Packages are asked themselves: on a machine that they were copied to, nothing says what is installed.
    """
    facts = {
        "GPU": ", ".join(f"{gpu.name} ({gpu.compute_capability})" for gpu in gpus()),
        "driver": _driver(),
        "CUDA": _cuda(),
        "onnxruntime": _onnxruntime(),
        "torch": _torch(),
        "TensorRT": _version("tensorrt"),
        "TensorRT-RTX": _version("tensorrt_rtx"),
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "memory measured by": "" if gauge is None else gauge.name,
    }
    return {name: fact for name, fact in facts.items() if fact}


def _driver() -> str:
    if nvml := _imported("pynvml"):
        with suppress(nvml.NVMLError):
            nvml.nvmlInit()
            return str(nvml.nvmlSystemGetDriverVersion())
    with suppress(OSError):
        return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").partition("\n")[0].strip()
    return ""


def _cuda() -> str:
    """Of the runtime that is loaded, and the newest that the driver knows."""
    try:
        runtime, driver = import_cuda()
    except MachineError:
        return ""
    found = []
    for name, ask in (("runtime", runtime.cudaRuntimeGetVersion), ("driver", driver.cuDriverGetVersion)):
        # cuda-bindings 12 raises where there is no driver.
        with suppress(RuntimeError):
            code, version = ask()
            if not int(code) and version:
                found.append(f"{name} {version // 1000}.{version % 1000 // 10}")
    return ", ".join(found)


def _onnxruntime() -> str:
    module = _imported("onnxruntime")
    cuda = getattr(module, "cuda_version", "")
    return "" if module is None else f"{module.__version__}{f', built for CUDA {cuda}' if cuda else ''}"


def _torch() -> str:
    module = _imported("torch")
    if module is None:
        return ""
    cudnn = module.backends.cudnn.version() if module.backends.cudnn.is_available() else None
    return f"{module.__version__}{f', cuDNN {cudnn}' if cudnn else ''}"


def _version(name: str) -> str:
    return str(getattr(_imported(name), "__version__", ""))


def _imported(name: str) -> Any:
    """A module; ``None`` where it is not there, or does not load."""
    if name in sys.modules:
        return sys.modules[name]
    try:
        return __import__(name)
    except (ImportError, OSError):
        return None
