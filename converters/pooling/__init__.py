"""Pooling layers that keep every element: split and merge, and their sampled forms shrink and expand."""

from converters.pooling.functional import Expanded, Offset, Window, expand, merge, nested_phase, shrink, split
from converters.pooling.layers import (
    ExpandPool2d,
    MergePool2d,
    SharedOffset,
    ShrinkPool2d,
    SplitPool2d,
    draw_offsets,
    pinned_offsets,
)

__all__ = [
    "ExpandPool2d",
    "Expanded",
    "MergePool2d",
    "Offset",
    "SharedOffset",
    "ShrinkPool2d",
    "SplitPool2d",
    "Window",
    "draw_offsets",
    "expand",
    "merge",
    "nested_phase",
    "pinned_offsets",
    "shrink",
    "split",
]
