"""Networks: SMP-X, FCN32s and FCN8s on ResNets, the small networks of Figure 7, and users' own."""

from converters.networks.segmentation import SMP, FCN8s, FCN32s, SegmentationNetwork
from converters.networks.sources import (
    ARCHITECTURES,
    FIGURE7,
    network_from_arch,
    network_from_factory,
    network_from_source,
)

__all__ = [
    "ARCHITECTURES",
    "FIGURE7",
    "SMP",
    "FCN8s",
    "FCN32s",
    "SegmentationNetwork",
    "network_from_arch",
    "network_from_factory",
    "network_from_source",
]
