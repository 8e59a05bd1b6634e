"""Scales by hand, and exactness of quantized convolutions against whole numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from converters.graphs.quantization.scales import quantized_convolution, scale_for


def test_scales_by_hand() -> None:
    # 127 -> 1, a little more -> 1.25, 2 * 127 -> 2, a half, and 1 where all values are zero.
    found = scale_for(np.array([127, 127.1, 158.75, 160, 254, 63.5, 0.0]))
    np.testing.assert_array_equal(found, np.float32([1, 1.25, 1.25, 1.5, 2, 0.5, 1]))


def test_scales_cover_their_magnitude_and_waste_a_quarter_at_most() -> None:
    magnitudes = 10 ** np.random.default_rng(0).uniform(-6, 6, 10_000)
    scales = scale_for(magnitudes).astype(np.float64)
    waste = scales * 127 / magnitudes
    assert waste.min() >= 1
    assert waste.max() <= 1.25
    assert waste.mean() < 1.12
    significands = np.frexp(scales)[0] * 8
    assert set(significands) == {4, 5, 6, 7}


def test_a_quantized_convolution_is_exact_in_single_precision() -> None:
    draw = np.random.default_rng(1)
    weight = draw.normal(size=(16, 64, 3, 3)).astype(np.float32) * draw.uniform(0.1, 3, (16, 1, 1, 1)).astype(
        np.float32
    )
    bias = draw.normal(size=16).astype(np.float32)
    constants = quantized_convolution(weight, bias, 4.0)
    assert constants.weight.dtype == np.int8
    assert np.abs(constants.weight.astype(int)).reshape(16, -1).max(1).min() >= 127 / 1.25 - 1
    x = draw.integers(-127, 128, (2, 64, 9, 11))
    unit = constants.input_scale.astype(np.float64) * constants.weight_scales.astype(np.float64)
    sums = F.conv2d(torch.from_numpy(x), torch.from_numpy(constants.weight.astype(np.int64))).numpy()
    whole = sums + np.rint(bias / unit).astype(np.int64).reshape(-1, 1, 1)
    expected = whole * unit.reshape(-1, 1, 1)
    dequantized = constants.weight.astype(np.float32) * constants.weight_scales.reshape(-1, 1, 1, 1)
    actual = F.conv2d(
        torch.from_numpy(x.astype(np.float32) * constants.input_scale),
        torch.from_numpy(dequantized),
        torch.from_numpy(constants.bias),
    ).numpy()
    np.testing.assert_array_equal(actual, expected.astype(np.float32))
    assert np.abs(constants.bias - bias).max() <= unit.max() / 2
