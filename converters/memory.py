"""The memory of this machine."""

from __future__ import annotations

import psutil


def available_bytes() -> int:
    """What can be had without swapping."""
    return int(psutil.virtual_memory().available)
