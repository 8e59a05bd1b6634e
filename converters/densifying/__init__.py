"""Ordinary strided networks as dense ones: each strided layer at stride 1 with a split behind it, merged at the end."""

from converters.densifying.converting import densified, densify
from converters.densifying.network import DenseNetwork
from converters.densifying.options import Densification, MaxPool
from converters.densifying.report import DensifyReport, Fate, LayerRow
from converters.densifying.upsampling import Upsampling

__all__ = [
    "DenseNetwork",
    "Densification",
    "DensifyReport",
    "Fate",
    "LayerRow",
    "MaxPool",
    "Upsampling",
    "densified",
    "densify",
]
