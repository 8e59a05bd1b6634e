"""Split-Merge and Shrink-Expand pooling as functions of tensors.

The layouts are einops patterns, with ``h, w`` the window and ``n`` outermost:

* split:  ``n c (i h) (j w) -> (n h w) c i j``
* merge:  ``(n h w) c i j -> n c (i h) (j w)``

Eq. 1 of the paper writes ``b^(k,l)_{i,j} = a_{i*w+k, j*h+l}`` for ``A_{W x H}``: its index ``k`` runs along
the width and ``l`` along the height. A phase here is ``(row, column) = (l, k)``, and the split batch of phase
``(row, column)`` of image ``n`` is batch entry ``(n * h + row) * w + column``.

Every function dispatches through ``__torch_function__``, so that ``torch.fx`` records it as one call and the
rewrites see a split instead of its reshapes.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from engines.errors import LayoutError

Window: TypeAlias = tuple[int, int]
Offset: TypeAlias = tuple[int, int]


class Expanded(NamedTuple):
    """What :func:`expand` gives: the sparse map and the mask of its valid elements."""

    values: Tensor
    """``(n, c, i*h, j*w)``: the input at the sampled offset of every window, zero elsewhere."""
    mask: Tensor
    """``(i*h, j*w)`` bool: true at the sampled offset of every window."""


def split(x: Tensor, window: Window) -> Tensor:
    """Rearrange ``(n, c, i*h, j*w)`` into the split batches ``(n*h*w, c, i, j)`` (Eq. 1).

    Any dtype, values unchanged. Raises :class:`LayoutError` when the window does not divide the map.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(split, (x,), x, window)
    h, w = window
    _, channels, height, width = x.shape
    _check_divides(window, (height, width))
    i, j = height // h, width // w
    # The batch stays symbolic (-1), so that an exported Reshape holds for any number of images.
    return x.reshape(-1, channels, i, h, j, w).permute(0, 3, 5, 1, 2, 4).reshape(-1, channels, i, j)


def merge(x: Tensor, window: Window) -> Tensor:
    """Put split batches ``(n*h*w, c, i, j)`` back into ``(n, c, i*h, j*w)`` (Eq. 2), the inverse of :func:`split`.

    Any dtype, values unchanged. Raises :class:`LayoutError` when the batch holds no whole set of split batches.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(merge, (x,), x, window)
    h, w = window
    batch, channels, i, j = x.shape
    if batch % (h * w):
        raise LayoutError(f"a window of {h}x{w} merges sets of {h * w} split batches; received a batch of {batch}")
    return x.reshape(-1, h, w, channels, i, j).permute(0, 3, 4, 1, 5, 2).reshape(-1, channels, i * h, j * w)


def shrink(x: Tensor, window: Window, offset: Offset) -> Tensor:
    """Keep one split batch: ``(n, c, i*h, j*w) -> (n, c, i, j)``, the elements at ``offset = (row, column)``.

    Section 3.2. Raises :class:`LayoutError` when the window does not divide the map or the offset lies outside it.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(shrink, (x,), x, window, offset)
    _check_divides(window, (x.shape[-2], x.shape[-1]))
    _check_offset(window, offset)
    (h, w), (row, column) = window, offset
    return x[..., row::h, column::w]


def expand(x: Tensor, window: Window, offset: Offset) -> Expanded:
    """Put ``(n, c, i, j)`` at ``offset`` of every window of a map of zeros, ``(n, c, i*h, j*w)``.

    Section 3.2. The gradient reaches the valid elements alone. Raises :class:`LayoutError` for an offset
    outside the window.
    """
    if has_torch_function_unary(x):
        return handle_torch_function(expand, (x,), x, window, offset)
    _check_offset(window, offset)
    (h, w), (row, column) = window, offset
    i, j = x.shape[-2], x.shape[-1]
    values = x.new_zeros((*x.shape[:-2], i * h, j * w))
    values[..., row::h, column::w] = x
    mask = torch.zeros((i * h, j * w), dtype=torch.bool, device=x.device)
    mask[row::h, column::w] = True
    return Expanded(values, mask)


def nested_phase(windows: list[Window], offsets: list[Offset]) -> tuple[Window, Offset]:
    """The one window and phase that nested shrinks, outermost first, amount to.

    With row offsets ``k1, k2, ...`` and heights ``h1, h2, ...`` the row is ``k1 + h1*k2 + h1*h2*k3 + ...``;
    columns likewise.
    """
    if len(windows) != len(offsets):
        raise LayoutError(f"each window needs one offset; received {len(windows)} windows and {len(offsets)} offsets")
    (height, width), (row, column) = (1, 1), (0, 0)
    for (h, w), offset in zip(windows, offsets, strict=True):
        _check_offset((h, w), offset)
        row, column = row + height * offset[0], column + width * offset[1]
        height, width = height * h, width * w
    return (height, width), (row, column)


def _check_divides(window: Window, size: tuple[int, int]) -> None:
    if size[0] % window[0] or size[1] % window[1]:
        raise LayoutError(
            f"a window of {window[0]}x{window[1]} does not divide a map of {size[0]}x{size[1]} (height x width); "
            "pad the map to a multiple of the window"
        )


def _check_offset(window: Window, offset: Offset) -> None:
    if not (0 <= offset[0] < window[0] and 0 <= offset[1] < window[1]):
        raise LayoutError(f"offset {offset} lies outside a window of {window[0]}x{window[1]}")
