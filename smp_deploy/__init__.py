"""The library: every operation of the command line as a function, loaded when it is first used.

On a vehicle import ``engines`` alone, which needs neither this package nor PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters import (
        DensifyReport,
        Frame,
        MergePool2d,
        SplitPool2d,
        densify,
        export,
        network_from_arch,
        pack,
        reproduce,
        validate,
    )
    from engines import (
        BuildListener,
        BuildOptions,
        Bundle,
        HardwareCompatibility,
        Lowering,
        MemoryPool,
        OutputKind,
        Precision,
        Schedule,
        Session,
        build_engine,
        choose_schedule,
        plan,
        prove,
    )
    from engines.bundle.records import Check, Status
    from engines.errors import (
        InputError,
        MissingDependency,
        NetworkError,
        OutOfMemory,
        SmpDeployError,
        UntrustedBundle,
    )
    from engines.trust import Policy, Signer, sign_bundle, verify_bundle
    from smp_deploy.benchmarking.bench import bench
    from smp_deploy.benchmarking.tuner import tune
    from smp_deploy.datasets import Scenes
    from smp_deploy.evaluation import evaluate
    from smp_deploy.reports import report
    from smp_deploy.training import (
        Augmentation,
        Autocast,
        LearningRateSchedule,
        Loss,
        Observer,
        Optimizer,
        TrainingConfig,
        Validation,
        train,
    )

_HOMES = {
    "Augmentation": "smp_deploy.training",
    "Autocast": "smp_deploy.training",
    "BuildListener": "engines",
    "BuildOptions": "engines",
    "Bundle": "engines",
    "Check": "engines.bundle.records",
    "DensifyReport": "converters",
    "Frame": "converters",
    "HardwareCompatibility": "engines",
    "InputError": "engines.errors",
    "LearningRateSchedule": "smp_deploy.training",
    "Loss": "smp_deploy.training",
    "Lowering": "engines",
    "MemoryPool": "engines",
    "MergePool2d": "converters",
    "MissingDependency": "engines.errors",
    "NetworkError": "engines.errors",
    "Observer": "smp_deploy.training",
    "Optimizer": "smp_deploy.training",
    "OutOfMemory": "engines.errors",
    "OutputKind": "engines",
    "Policy": "engines.trust",
    "Precision": "engines",
    "Scenes": "smp_deploy.datasets",
    "Schedule": "engines",
    "Session": "engines",
    "Signer": "engines.trust",
    "SmpDeployError": "engines.errors",
    "SplitPool2d": "converters",
    "Status": "engines.bundle.records",
    "TrainingConfig": "smp_deploy.training",
    "UntrustedBundle": "engines.errors",
    "Validation": "smp_deploy.training",
    "bench": "smp_deploy.benchmarking.bench",
    "build_engine": "engines",
    "choose_schedule": "engines",
    "densify": "converters",
    "evaluate": "smp_deploy.evaluation",
    "export": "converters",
    "network_from_arch": "converters",
    "pack": "converters",
    "plan": "engines",
    "prove": "engines",
    "report": "smp_deploy.reports",
    "reproduce": "converters",
    "sign_bundle": "engines.trust",
    "train": "smp_deploy.training",
    "tune": "smp_deploy.benchmarking.tuner",
    "validate": "converters",
    "verify_bundle": "engines.trust",
}
"""The module that holds each public name."""

_EXTRAS = {"smp_deploy.training": "train"}
"""What a module needs beside the base; those of ``converters`` and ``engines`` say so themselves."""

__all__ = [
    "Augmentation",
    "Autocast",
    "BuildListener",
    "BuildOptions",
    "Bundle",
    "Check",
    "DensifyReport",
    "Frame",
    "HardwareCompatibility",
    "InputError",
    "LearningRateSchedule",
    "Loss",
    "Lowering",
    "MemoryPool",
    "MergePool2d",
    "MissingDependency",
    "NetworkError",
    "Observer",
    "Optimizer",
    "OutOfMemory",
    "OutputKind",
    "Policy",
    "Precision",
    "Scenes",
    "Schedule",
    "Session",
    "Signer",
    "SmpDeployError",
    "SplitPool2d",
    "Status",
    "TrainingConfig",
    "UntrustedBundle",
    "Validation",
    "__version__",
    "bench",
    "build_engine",
    "choose_schedule",
    "densify",
    "evaluate",
    "export",
    "network_from_arch",
    "pack",
    "plan",
    "prove",
    "report",
    "reproduce",
    "sign_bundle",
    "train",
    "tune",
    "validate",
    "verify_bundle",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562)."""
    if name == "__version__":
        value: Any = _version()
    elif name in _HOMES:
        value = getattr(_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _module(home: str) -> Any:
    """The module of a public name. Raises :class:`MissingDependency` where it needs a package that is not installed."""
    if home not in _EXTRAS:
        return import_module(home)
    from engines.errors import module_of_extra

    return module_of_extra(home, _EXTRAS[home])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("smp-deploy")
    except PackageNotFoundError:
        # A source tree that nobody installed.
        return "0+unknown"
