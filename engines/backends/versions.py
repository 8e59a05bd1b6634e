"""What a record says of the packages that it was made with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from engines.backends import BACKENDS

_TOOLS = ("smp-deploy", "numpy", "torch", "onnx")


def tool_versions() -> dict[str, str]:
    """The installed ones among the tools of an export and the runtimes of all backends, with their versions."""
    runtimes = (package for backend in BACKENDS for package in backend.packages)
    found = {package: installed_version(package) for package in (*_TOOLS, *runtimes)}
    return {package: known for package, known in found.items() if known is not None}


def installed_version(package: str) -> str | None:
    """Of a package by its name on PyPI; ``None`` where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
