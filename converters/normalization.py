"""Mean and standard deviation as people write them down: of values in [0, 1], or in another convention.

A bundle's graphs compute ``(x / 255 - mean) / std`` for R, G and B. Of values in [0, 1] a mean lies there too, and a
standard deviation is at most 0.5; 1 leaves the values as they are, and 1/255 gives those in [0, 255].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from converters.graphs.stages import IMAGENET_MEAN, IMAGENET_STD, Normalization
from engines.errors import InputError

_Triple: TypeAlias = tuple[float, ...]

_SMALLEST_STD = 1e-6
"""Less makes values that float32, and soon float16, cannot hold."""
_USUAL_STD = (0.05, 0.6)
"""Between these lie the deviations of photographs."""
_ALIKE = 0.005
"""Others round ImageNet's figures, or measured them anew."""


def normalization_of(mean: Sequence[float], std: Sequence[float]) -> Normalization:
    """Both, checked.

    Raises :class:`InputError` for what is no three numbers, and for figures of another convention, with those that
    were probably meant: of values in [0, 255], factors in place of deviations, ImageNet's in the order B, G, R, or the
    one taken for the other.
    """
    try:
        (r, g, b), (sr, sg, sb) = ((float(value) for value in values) for values in (mean, std))
    except (TypeError, ValueError):
        raise InputError(f"mean= and std= are three numbers each, of R, G and B; received {mean!r}, {std!r}") from None
    means, deviations = (r, g, b), (sr, sg, sb)
    if not all(map(math.isfinite, means)) or not all(0 < value < math.inf for value in deviations):
        raise InputError(f"mean= is finite and std= above zero for every channel; received {mean!r} and {std!r}")
    _check_convention(means, deviations)
    return Normalization((r, g, b), (sr, sg, sb))


def _check_convention(mean: _Triple, std: _Triple) -> None:
    if min(mean) < 0:
        raise InputError(f"mean= is of values in [0, 1]; received {_given(mean)}, and no mean of them is negative")
    if min(std) < _SMALLEST_STD:
        raise InputError(f"std= is at least {_SMALLEST_STD:g}; received {_given(std)}")
    meant_mean, meant_std, why = mean, std, ""
    if max(mean) > 1 or max(std) > 1:
        why = "mean= and std= are of values in [0, 1]"
        if max(mean) > 1:
            meant_mean = tuple(value / 255 for value in mean)
        meant_std = _meant_std(std, of_bytes=max(mean) > 1)
    if _near(meant_mean, IMAGENET_STD) and _near(meant_std, IMAGENET_MEAN):
        why, meant_mean, meant_std = "these are ImageNet's, one in the other's place", meant_std, meant_mean
    if _near(meant_mean[::-1], IMAGENET_MEAN):
        order = "frames are R, G, B, and these are ImageNet's figures in the order B, G, R"
        why = f"{why}, and {order}" if why else order
        meant_mean, meant_std = meant_mean[::-1], meant_std[::-1]
    if why:
        raise InputError(
            f"{why}; received {_given(mean)} and {_given(std)}. Probably meant: mean={_shown(meant_mean)} "
            f"std={_shown(meant_std)}"
        )


def _meant_std(std: _Triple, *, of_bytes: bool) -> _Triple:
    """The deviations of values in [0, 1] behind others: of values in [0, 255], their inverses, or of both."""
    readings = [tuple(value / 255 for value in std), tuple(1 / value for value in std)]
    if of_bytes:
        readings = [readings[0], tuple(1 / (255 * value) for value in std), std]
    least, most = _USUAL_STD
    return next((held for held in readings if least <= min(held) <= max(held) <= most), readings[0])


def _near(one: _Triple, other: _Triple) -> bool:
    return all(math.isclose(a, b, abs_tol=_ALIKE) for a, b in zip(one, other, strict=True))


def _shown(values: _Triple) -> str:
    return " ".join(f"{value:.5g}" for value in values)


def _given(values: _Triple) -> str:
    return " ".join(f"{value:g}" for value in values)
