"""What this machine is, as far as it decides which engines can be built on it."""

from __future__ import annotations

import enum
import platform
from dataclasses import dataclass
from pathlib import Path

from engines.devices.gpus import Gpu, gpus


class Family(enum.Enum):
    """NVIDIA's embedded product lines."""

    DRIVE = "DRIVE"
    JETSON = "Jetson"


class Soc(enum.Enum):
    """A system on chip, by the name that its device tree says."""

    ORIN = "nvidia,tegra234"
    THOR = "nvidia,tegra264"


@dataclass(frozen=True)
class Machine:
    """One machine."""

    architecture: str
    """``x86_64``, ``aarch64``."""
    soc: Soc | None = None
    family: Family | None = None
    """``None`` where nothing tells."""
    gpus: tuple[Gpu, ...] = ()

    def record(self, index: int = 0) -> dict[str, str | None]:
        """What an engine is tied to, for its build record; ``index`` is that of the GPU which it is built for."""
        gpu = self.gpus[index] if index < len(self.gpus) else None
        return {
            "architecture": self.architecture,
            "soc": self.soc.name.lower() if self.soc else None,
            "gpu": gpu.name if gpu else None,
            "compute_capability": gpu.compute_capability if gpu else None,
        }

    def __str__(self) -> str:
        if self.soc is None:
            return self.architecture
        return f"{self.family.value if self.family else 'DRIVE or Jetson'} {self.soc.name.capitalize()}"


def this_machine(root: Path = Path("/")) -> Machine:
    """The machine that this runs on; ``root`` is where its ``/proc`` and ``/etc`` lie."""
    tree = root / "proc" / "device-tree"
    compatible, model = _text(tree / "compatible"), _text(tree / "model")
    soc = next((soc for soc in Soc if soc.value in compatible.split("\0")), None)
    family = None
    if (root / "etc" / "nv_tegra_release").exists() or "jetson" in model.lower():
        family = Family.JETSON
    elif "drive" in model.lower():
        family = Family.DRIVE
    return Machine(platform.machine(), soc, family, gpus())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
