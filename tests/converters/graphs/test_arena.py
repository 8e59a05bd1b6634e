"""The arena of ONNX Runtime on a GPU, laid out by hand."""

from __future__ import annotations

import pytest
from onnx import helper

from converters.graphs.arena import arena_bytes
from converters.graphs.lifetimes import live_bytes
from engines import Bundle, Precision
from tests.converters.graphs.test_packing import BYTES, convolution, model_of

GROWING = [
    convolution("conv1", "x", "a", (3, 16)),
    helper.make_node("Relu", ["a"], ["ra"]),
    convolution("conv2", "ra", "b", (16, 32)),
    convolution("conv3", "b", "c", (32, 64)),
    helper.make_node("Transpose", ["c"], ["y"], perm=[0, 1, 3, 2]),
]
SHRINKING = [
    convolution("conv1", "x", "a", (3, 64)),
    convolution("conv2", "a", "b", (64, 64)),
    convolution("conv3", "b", "c", (64, 16)),
    convolution("conv4", "c", "d", (16, 33)),
    helper.make_node("Transpose", ["d"], ["y"], perm=[0, 1, 3, 2]),
]


def test_regions_of_a_growing_network_are_never_joined() -> None:
    """One of 3 for the input with channels last, 16 (a ReLU works in place), 32, 64, and 64 for the plain copy."""
    assert arena_bytes(model_of(GROWING, {"x": 3}, {"y": 64})) == (3 + 16 + 32 + 64 + 64) * BYTES


def test_a_chunk_is_cut_where_it_is_twice_as_large_and_joined_again() -> None:
    """3, 64 and 64. The 16 are cut off the first 64, 33 take all of the second, for the plain copy 48 are left."""
    assert arena_bytes(model_of(SHRINKING, {"x": 3}, {"y": 33})) == (3 + 64 + 64) * BYTES


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_the_arena_holds_at_least_what_is_alive(exported: Bundle, precision: Precision) -> None:
    import onnx_ir as ir

    for trunk in exported.manifest.trunks:
        model = ir.load(exported.file(exported.trunk_graph(trunk, precision)))
        windows = 3 * 4 * exported.manifest.grid(trunk).crop_size[0] * exported.manifest.grid(trunk).crop_size[1]
        assert trunk.arena_bytes[precision] == arena_bytes(model)
        # A ReLU takes the place of its input, which counts as alive beside it.
        assert trunk.arena_bytes[precision] >= (live_bytes(model) - windows) / 2
