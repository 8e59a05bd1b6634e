"""The GPUs of this machine, asked of the CUDA driver itself: nvidia-smi is not on every Jetson and DRIVE."""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""The driver's numbers of these device attributes."""


@dataclass(frozen=True)
class Gpu:
    """One GPU."""

    name: str
    compute_capability: str
    """``"8.9"``."""


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """The GPUs in the driver's order; none where there is no driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(_gpu(driver, index) for index in range(count.value))


def gpu_title(index: int) -> str:
    """The name of one GPU, which a measurement holds for; ``"no GPU"`` where there is none of this index."""
    found = gpus()
    return found[index].name if index < len(found) else "no GPU"


def _gpu(driver: ctypes.CDLL, index: int) -> Gpu:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    capability = []
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(str(value.value))
    return Gpu(name.value.decode(errors="replace"), ".".join(capability))
