"""Devices: memory of their own, filled and read by copies, with work queued on streams."""

from engines.devices.base import Copies, Device, DeviceEngine, Execution, pinned_array

__all__ = ["Copies", "Device", "DeviceEngine", "Execution", "pinned_array"]
