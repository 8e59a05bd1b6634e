"""Names of devices, as users write them: ``cpu``, ``cuda``, ``cuda:1``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from engines.errors import InputError


@dataclass(frozen=True)
class DeviceName:
    """One device of a machine."""

    kind: str
    """``"cpu"`` or ``"cuda"``."""
    index: int = 0

    @classmethod
    def parse(cls, text: str) -> DeviceName:
        """``"cuda:1"`` -> the second GPU, ``"cuda"`` -> the first. Raises :class:`InputError` for anything else."""
        match = re.fullmatch(r"(cpu|cuda)(?::([0-9]{1,4}))?", text) if isinstance(text, str) else None
        if match is None or (match[1] == "cpu" and match[2]):
            raise InputError(f'a device is "cpu", "cuda" or "cuda:INDEX"; received {text!r}')
        return cls(match[1], int(match[2] or 0))

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"
