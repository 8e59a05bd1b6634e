"""What a record says of the packages that it was made with."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from engines.backends import BACKENDS

_TOOLS = ("smp-deploy", "numpy", "torch", "onnx")


def tool_versions() -> dict[str, str]:
    """The installed ones among the tools of an export and the runtimes of all backends, with their versions."""
    runtimes = (package for backend in BACKENDS for package in backend.packages)
    return installed_versions((*_TOOLS, *runtimes))


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Of those that are installed, by their names on PyPI."""
    found = {package: installed_version(package) for package in packages}
    return {package: known for package, known in found.items() if known is not None}


def installed_version(package: str) -> str | None:
    """Of a package by its name on PyPI; ``None`` where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
