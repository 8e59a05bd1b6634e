"""The exceptions of smp-deploy.

SmpDeployError
├── InputError               the user's input is wrong (exit code 2)
│   ├── LayoutError          a window, phase or size that does not fit
│   ├── FrameError           an image that cannot be used
│   ├── BundleError          a bundle that is absent, damaged or too new
│   │   ├── MissingEngine    a bundle without the engine that was asked for
│   │   └── UntrustedBundle  a bundle whose signature does not hold, or is nobody's who may sign
│   ├── DatasetError         a dataset that is incomplete or not in its layout
│   ├── CheckpointError      a checkpoint that cannot be loaded, or is another network's
│   ├── NetworkError         a network that is unknown, or that a rewrite does not understand
│   ├── OutputError          an output that cannot be written
│   └── PassPhraseNeeded     a key that is encrypted
├── CheckFailed              a check ran and failed (exit code 1)
└── MachineError             this machine lacks something (exit code 3)
    ├── MissingDependency    a Python package that an extra installs
    └── BackendError         a runtime or device that refuses the work
        ├── OutOfMemory      memory that does not suffice: a smaller schedule may
        └── WorkFailed       work that had begun and broke: nothing was absent
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


class SmpDeployError(Exception):
    """Base of every error that smp-deploy raises on purpose; its message is for the user."""


class InputError(SmpDeployError):
    """What the user gave is wrong; the message says what was received and what to do."""


class LayoutError(InputError, ValueError):
    """A window, phase or size that does not fit."""


class FrameError(InputError):
    """An image that cannot be used as a frame."""


class BundleError(InputError):
    """A bundle that is absent, damaged, tampered with or of a newer schema."""


class MissingEngine(BundleError):
    """The bundle has no engine of this use.

    Args:
        what: that there is none, and what there is.
        bundle: where the bundle is.
        use: the arguments of ``build_engine`` that say which engine it would be.
    """

    def __init__(self, what: str, bundle: Path, **use: Any) -> None:
        arguments = ", ".join([repr(str(bundle)), *(f"{name}={value!r}" for name, value in use.items())])
        super().__init__(f"{what}; build it on this machine: build_engine({arguments})")
        self.what = what
        self.bundle = bundle
        self.use = use


class UntrustedBundle(BundleError):
    """A signature that does not hold or that somebody made who may not, or a version older than an accepted one."""


class DatasetError(InputError):
    """A dataset that is incomplete, not in its layout, or has labels that are no classes."""


class CheckpointError(InputError):
    """A checkpoint that cannot be loaded, or that belongs to another network."""


class NetworkError(InputError):
    """A network that is unknown, or one that a rewrite does not understand."""


class OutputError(InputError):
    """An output that cannot be written, or that exists already."""


class PassPhraseNeeded(InputError):
    """A key is encrypted, and no pass phrase was given."""


class CheckFailed(SmpDeployError):
    """A check ran and its figures are outside the tolerance."""


class MachineError(SmpDeployError):
    """This machine lacks what the work needs."""


class MissingDependency(MachineError):
    """A Python package is missing; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: {install_command(extra)}")
        self.package = package
        self.extra = extra


def module_of_extra(module: str, extra: str) -> ModuleType:
    """A module of ours. Raises :class:`MissingDependency` where it needs a package of the extra that is not there."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in _OURS:
            raise
        raise MissingDependency(error.name, extra) from error


_OURS = ("converters", "engines", "smp_deploy")


def install_command(extra: str) -> str:
    """The command that installs an extra of this package."""
    return f"pip install 'smp-deploy[{extra}]'"


class BackendError(MachineError):
    """A runtime or device that refuses the work."""


class OutOfMemory(BackendError):
    """The memory of the machine or the device does not suffice; a smaller schedule may."""


class WorkFailed(BackendError):
    """All that the work needs was there; it began and broke."""
