"""Devices: memory of their own, filled and read by copies, with work queued on streams."""

from engines.devices.base import Copies, Device, DeviceEngine, Execution, OpenEngine, TensorSpec, pinned_array
from engines.devices.names import DeviceName

__all__ = [
    "Copies",
    "Device",
    "DeviceEngine",
    "DeviceName",
    "Execution",
    "OpenEngine",
    "TensorSpec",
    "pinned_array",
]
