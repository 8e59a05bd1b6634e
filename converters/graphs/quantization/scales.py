"""Scales of int8, chosen so that a quantized convolution is exact in single precision.

A quantized value is ``s * q`` with a whole number ``q`` of at most 7 bits. Let a scale have a significand of 3 bits,
``m * 2^e`` with ``m`` in 4 to 7. Then the products of a convolution, ``(m * q) * (n * r) * 2^(e + f)``, are whole
multiples of one power of two, and so are their partial sums. Float32 holds these exactly as long as the sum of
``q * r`` stays below ``2^24 / 49``, about 342,000: more than the sums of real networks reach, with rare exceptions. A
bias that is a multiple of the same unit, as the int32 bias of an integer convolution is, keeps it so.

Hence the order of the additions does not matter: every schedule, sub-batch, lowering and runtime gives the same
logits, as integer arithmetic on the target does. Rounding a scale up to 3 bits costs a quarter of the range at most,
a tenth on average.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
"""The largest quantized magnitude: -128 is left out, so that the range is symmetric."""


@dataclass(frozen=True)
class QuantizedConvolution:
    """The constants of one quantized convolution."""

    input_scale: np.float32
    weight: NDArray[np.int8]
    weight_scales: NDArray[np.float32]
    """One for each output channel."""
    bias: NDArray[np.float32] | None
    """In multiples of ``input_scale * weight_scales``."""


def scale_for(magnitudes: NDArray[np.floating]) -> NDArray[np.float32]:
    """The smallest scales of 3 bits under which these magnitudes are at most 127; 1 for zero."""
    wanted = np.asarray(magnitudes, np.float64) / LARGEST
    significand, exponent = np.frexp(np.where(wanted > 0, wanted, 1.0))
    # frexp gives [0.5, 1): eighths are 4 to 8, and 8 carries into the exponent by itself.
    return np.asarray(np.ldexp(np.ceil(significand * 8) / 8, exponent), np.float32)


def quantized_convolution(
    weight: NDArray[np.float32], bias: NDArray[np.float32] | None, input_range: float
) -> QuantizedConvolution:
    """Quantize ``weight`` ``(out, in, h, w)`` and ``bias`` ``(out,)``; the magnitude ``input_range`` becomes 127."""
    input_scale = scale_for(np.array(input_range))
    scales = scale_for(np.abs(weight).reshape(len(weight), -1).max(1))
    spread = scales.reshape(-1, *[1] * (weight.ndim - 1))
    whole = np.clip(np.rint(weight / spread), -LARGEST, LARGEST).astype(np.int8)
    rounded = None
    if bias is not None:
        unit = scales.astype(np.float64) * float(input_scale)
        rounded = (np.rint(bias / unit) * unit).astype(np.float32)
    return QuantizedConvolution(np.float32(input_scale), whole, scales, rounded)
