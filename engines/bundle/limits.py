"""The most that is read of each kind of file: well above what is met, far below what stops a machine."""

from __future__ import annotations

CHECKPOINT_BYTES = 16 << 30
"""Parameters of 4 G floats; it is mapped or read once. The largest network here, of ResNet-101, has 0.2 GiB."""

CHECKPOINT_INDEX_BYTES = 16 << 20
"""The names of 100,000 tensors, and where each is."""

TRAINING_STATE_BYTES = 64 << 30
"""A checkpoint four times over: parameters, two moments of the optimizer, an average."""

PICTURE_BYTES = 256 << 20
"""64 Mi pixels of four bytes, stored as they are."""

PICTURE_PIXELS = 64 << 20
"""Of a picture whose size nobody foresees: 8192x8192, twice the pixels of 8K video. Decoded, 0.25 GiB."""

CLASS_FILE_BYTES = 1 << 20
"""A line for each class; there are at most 65,536."""

TIMING_CACHE_BYTES = 1 << 30
"""TensorRT's measurements of many networks; caches of one network have a few MiB."""

JSON_DEPTH = 64
"""Lists and objects in each other. Documents here have at most 10."""
