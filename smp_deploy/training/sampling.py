"""Which elements a step of training looks at (section 3.2), for any windows and any number of levels.

Of every window of the first levels one element is drawn. The last levels may stay split, as many as wanted and at
least those that a network needs whole: each gives as many times the supervised pixels as its window has elements, for
the cost of the layers behind it alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from converters.analysis.levels import total_window
from converters.analysis.network import traced_network
from converters.analysis.tracing import USUAL_SIZE
from converters.pooling import Offset, Window, nested_phase, split
from converters.rewriting.sampling import SampledNetwork, sampled_from_network
from engines.errors import InputError, LayoutError
from engines.schedules.phases import Size

_JUDGED_OF = 64
"""One draw of a validation judges about one of so many pixels: of SMP-X every eighth row and column, spread over the
frame, and cheap."""


@dataclass(frozen=True)
class Sampling:
    """The elements of one step."""

    windows: tuple[Window, ...]
    """Of the shrunk levels, outermost first."""
    offsets: tuple[Offset, ...]
    """``(row, column)`` inside each of them."""
    dense_windows: tuple[Window, ...] = ()
    """Of the levels that stay split."""

    def __post_init__(self) -> None:
        nested_phase(list(self.windows), list(self.offsets))


def training_form(network: nn.Module, dense_levels: int, size: Size = USUAL_SIZE) -> SampledNetwork:
    """The network as a step of training on images of ``size`` computes it, in the mode it is in.

    ``dense_levels`` of the last levels stay split, or as many as the network needs if these are more. A network
    without splits stays as it is. Raises :class:`InputError` where the network has fewer levels, and
    :class:`~engines.errors.NetworkError` where it cannot be traced.
    """
    traced = traced_network(network, size, shared=True)
    levels = len(traced.windows)
    if dense_levels > levels:
        expected = f"0 to {levels}" if levels else "0 for a network without splits"
        raise InputError(f"training: dense_levels= must be {expected}; received {dense_levels}")
    return sampled_from_network(traced, min(levels - dense_levels, traced.most_levels))


def validation_form(network: nn.Module, size: Size = USUAL_SIZE) -> SampledNetwork:
    """The network as a look at validation frames of ``size`` computes it.

    It shrinks the fewest levels that leave one of 64 pixels, if it has so many, and at least those that a walk repeats
    no work for.
    """
    traced = traced_network(network, size, shared=True)
    candidates = range(traced.cut_levels, traced.most_levels)
    enough = (levels for levels in candidates if math.prod(total_window(traced.windows[:levels])) >= _JUDGED_OF)
    return sampled_from_network(traced, next(enough, traced.most_levels))


def draw_sampling(network: SampledNetwork, generator: torch.Generator | None = None) -> Sampling:
    """Uniformly drawn offsets for all levels that a network shrinks."""
    drawn = tuple((_draw(h, generator), _draw(w, generator)) for h, w in network.windows)
    return Sampling(network.windows, drawn, network.dense_windows)


def _draw(side: int, generator: torch.Generator | None) -> int:
    return int(torch.randint(side, (), generator=generator))


def sampled_logits(network: SampledNetwork, x: Tensor, sampling: Sampling) -> Tensor:
    """Logits of ``x (n, 3, H, W)`` at the sampled elements, ``(n * d, classes, i, j)``.

    ``d`` is the number of elements of the dense windows, ``(i, j)`` the size divided by all windows. Their order is
    that of :func:`sampled_labels`. The network's own mode decides what its batch norms do.
    """
    if (sampling.windows, sampling.dense_windows) != (network.windows, network.dense_windows):
        raise LayoutError(
            f"a network that shrinks {network.windows} and splits {network.dense_windows} cannot be sampled by "
            f"{sampling.windows} and {sampling.dense_windows}"
        )
    return network.logits(x, sampling.offsets)


def sampled_labels(labels: Tensor, sampling: Sampling) -> Tensor:
    """The labels ``(n, H, W)`` at the sampled elements, ``(n * d, i, j)``, same dtype."""
    (h, w), (row, column) = nested_phase(list(sampling.windows), list(sampling.offsets))
    sampled = labels[:, None, row::h, column::w]
    for window in sampling.dense_windows:
        sampled = split(sampled, window)
    return sampled[:, 0]
