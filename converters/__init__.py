"""From PyTorch to bundles: pooling layers, networks, rewriting, export and verification.

What is named here is the package's public API. It is loaded when it is first asked for, so that importing the package
costs nothing and needs no PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from converters.densifying import DensifyReport, densify
    from converters.exporting import export
    from converters.networks import network_from_arch
    from converters.one_file.packing import pack
    from converters.pooling import MergePool2d, SplitPool2d, merge, split
    from converters.reproductions import reproduce
    from converters.verification import Frame
    from converters.verification.validate import validate

_PLACES = {
    "DensifyReport": "converters.densifying",
    "Frame": "converters.verification",
    "MergePool2d": "converters.pooling",
    "SplitPool2d": "converters.pooling",
    "densify": "converters.densifying",
    "export": "converters.exporting",
    "merge": "converters.pooling",
    "network_from_arch": "converters.networks",
    "pack": "converters.one_file.packing",
    "reproduce": "converters.reproductions",
    "split": "converters.pooling",
    "validate": "converters.verification.validate",
}

__all__ = [
    "DensifyReport",
    "Frame",
    "MergePool2d",
    "SplitPool2d",
    "densify",
    "export",
    "merge",
    "network_from_arch",
    "pack",
    "reproduce",
    "split",
    "validate",
]


def __getattr__(name: str) -> Any:
    """PEP 562: load what is public when it is first asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from engines.errors import module_of_extra

    value = globals()[name] = getattr(module_of_extra(_PLACES[name], "export"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
