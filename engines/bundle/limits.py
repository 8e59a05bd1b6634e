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

WEIGHTS_BYTES = 4 << 30
"""Of a bundle, for the graphs of every precision: five times those of a network of 200 M parameters."""

GRAPH_BYTES = 16 << 20
"""Weights lie beside a graph, so the largest of a network of 300 layers are below 1 MiB."""

ARRAY_BYTES = 2 << 30
"""A reference frame or its logits. 150 classes at every pixel of 1024x2048 take 1.2 GiB."""

ARRAY_HEADER_BYTES = 1 << 10
"""Of a .npy file; numpy writes 128 for a few dimensions."""

OTHER_BYTES = 16 << 20
"""What else an export lists, a README."""

BUNDLE_BYTES = 8 << 30
"""All that an export lists: all of it is hashed when a bundle is opened."""

PLAN_BYTES, PLAN_WEIGHTS = 512 << 20, 8
"""A plan: kernels, and the weights in layouts of their own. Those of Winograd's take four times as much as 3x3 filters,
and a bundle's may be stored as fp16."""

BUILD_RECORD_BYTES = 32 << 20
"""That of an engine with as many tactics as a record holds is half as large."""

VALIDATION_BYTES = 4 << 20
"""The record of a validation. Two maps of 2**14 phases, in three precisions, take 2 MiB."""

PROOF_BYTES, PROOFS_BYTES = 4 << 20, 16 << 20
"""The proof of a backend, and all of them together; one with 500 checks takes 0.3 MiB."""

RECORD_BYTES = 1 << 20
"""What else lies in ``reports/`` and is read: measurements, of a kilobyte each."""

OVERLAY_BYTES = 128 << 20
"""Frames and labels beside a validation, packed. A frame of 1024x2048 with its labels takes 40 MiB unpacked."""
