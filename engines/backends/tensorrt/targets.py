"""What the platforms carry, and why an engine for one of them cannot be built here.

The figures are NVIDIA's. An engine is tied to the GPU and the TensorRT version it was built with, so an engine for a
platform is built on that platform.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from engines.backends.tensorrt.flavours import Flavour
from engines.backends.tensorrt.machine import Family, Machine, Soc
from engines.backends.tensorrt.settings import BuildOptions, HardwareCompatibility
from engines.errors import BackendError, InputError


class Target(enum.Enum):
    """Where an engine shall run."""

    DRIVE_ORIN = "drive-orin"
    DRIVE_THOR = "drive-thor"
    JETSON_ORIN = "jetson-orin"
    JETSON_THOR = "jetson-thor"
    RTX = "rtx"
    """Any GPU that TensorRT-RTX supports."""
    THIS_MACHINE = "this-machine"


@dataclass(frozen=True)
class Release:
    """A system release of a platform."""

    system: str
    tensorrt: str
    cuda: str


@dataclass(frozen=True)
class Platform:
    """An embedded platform."""

    family: Family
    soc: Soc
    majors: tuple[int, ...]
    """Major versions of its TensorRT that this program builds with."""
    releases: tuple[Release, ...]

    def __str__(self) -> str:
        return f"{self.family.value} {self.soc.name.capitalize()}"

    def carries(self) -> str:
        """What its releases carry, for a message."""
        return ", ".join(f"{release.tensorrt} ({release.system})" for release in self.releases)


_JETPACK_7_2 = (Release("JetPack 7.2", "10.16", "13.2"), Release("JetPack 7.2.2 and later", "11.4.1", "13.2"))

PLATFORMS = {
    Target.DRIVE_ORIN: Platform(
        Family.DRIVE,
        Soc.ORIN,
        (10,),
        (Release("DriveOS 6.0.x", "8.4 to 8.6.13", "11.4"), Release("DriveOS 7.x", "10.x", "12")),
    ),
    Target.DRIVE_THOR: Platform(
        Family.DRIVE,
        Soc.THOR,
        (10, 11),
        (Release("DriveOS 7.0.3", "10.10.10", "12.8"), Release("DriveOS 7.2.5 and 7.2.6", "11.0.1", "13")),
    ),
    Target.JETSON_ORIN: Platform(
        Family.JETSON, Soc.ORIN, (10, 11), (Release("JetPack 6.1 and 6.2", "10.3", "12.6"), *_JETPACK_7_2)
    ),
    Target.JETSON_THOR: Platform(
        Family.JETSON, Soc.THOR, (10, 11), (Release("JetPack 7.1", "10.13.3", "13.0"), *_JETPACK_7_2)
    ),
}


def check_machine(target: Target, machine: Machine, trtexec: Callable[[], list[str]]) -> None:
    """Raise :class:`BackendError` unless an engine for ``target`` can be built on ``machine``.

    ``trtexec`` gives the lines to run on the target instead.
    """
    platform = PLATFORMS.get(target)
    if platform is None:
        return
    if machine.soc is not platform.soc or machine.family not in (platform.family, None):
        raise BackendError(
            f"an engine for {target.value} is not built on {machine}: it is tied to its GPU and TensorRT, "
            f"{platform.carries()}; there is no cross-building. {_ON_TARGET}{_lines(trtexec())}"
        )
    if machine.family is None:
        raise BackendError(
            f"this is an {machine.soc.name.capitalize()}, but nothing here tells a DRIVE from a Jetson, so it may not "
            f'be {target.value}; if the engine is for this machine, say target="{Target.THIS_MACHINE.value}"'
        )


def check_flavour(target: Target, machine: Machine, flavour: Flavour) -> None:
    """Raise :class:`InputError` for a flavour that does not serve the target."""
    if target is Target.RTX and not flavour.portable:
        raise InputError(f'target="rtx" is TensorRT-RTX alone, not {flavour.name}; leave backend= out')
    if flavour.portable and (target in PLATFORMS or machine.soc is not None):
        where = target.value if target in PLATFORMS else str(machine)
        raise InputError(
            f"TensorRT-RTX does not run on {where}: it supports compute capabilities 7.5, 8.6, 8.9, 12.0 and 12.1, no "
            'Orin or Thor; use the TensorRT of the system, backend="tensorrt"'
        )


def check_build(
    target: Target,
    machine: Machine,
    options: BuildOptions,
    built_with: tuple[Flavour, str],
    trtexec: Callable[[], list[str]],
) -> None:
    """Raise for what TensorRT of this flavour and version would refuse, ignore or get wrong.

    :class:`InputError` for options that exclude each other, :class:`BackendError` for a version that cannot serve.
    """
    flavour, version = built_with
    compatible = options.hardware_compatibility is not HardwareCompatibility.NONE
    if flavour.portable:
        if compatible:
            raise InputError(
                "TensorRT-RTX ignores a hardware compatibility level: its engines are compiled on the GPU they meet; "
                "leave hardware_compatibility= out"
            )
        if options.version_compatible:
            raise InputError(
                f"TensorRT-RTX {version} comes without the lean runtime that a version-compatible engine needs; "
                "leave version_compatible= out"
            )
        return
    if compatible and machine.soc is not None:
        raise InputError(
            f"hardware compatibility is not for Jetson or DRIVE, and this is a {machine}; "
            "leave hardware_compatibility= out"
        )
    major = int(version.split(".", 1)[0])
    platform = PLATFORMS.get(target)
    if major < 10:
        raise BackendError(
            f"TensorRT {version} is too old: before 10 precision is a builder flag, and this program builds strongly "
            f"typed engines only. Use trtexec with the fp32 trunk and that version's own precision flags, without "
            f"--stronglyTyped:{_lines(trtexec())}"
        )
    if platform is not None and major not in platform.majors:
        raise BackendError(
            f"{target.value} carries TensorRT {platform.carries()}, but this Python finds {version}; an engine runs "
            "on the version it was built with: use the TensorRT of the system"
        )


_ON_TARGET = "Copy the bundle there and run the same command, or, with that system's TensorRT 10 or later alone:"


def _lines(trtexec: list[str]) -> str:
    return "".join(f"\n  {line}" for line in trtexec)
