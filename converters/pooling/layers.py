"""Split-Merge and Shrink-Expand pooling as modules.

A network built from :class:`SplitPool2d` and :class:`MergePool2d` splits and merges in evaluation mode and
shrinks and expands in training mode (section 3.2), with no change to its code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from converters.pooling.functional import Expanded, Offset, Window, expand, merge, shrink, split
from engines.errors import LayoutError


class SharedOffset:
    """The sampling location of one level, shared by every layer that subsamples or restores this level.

    It is drawn when a layer first asks for it and kept until the expand of the level releases it, so that a
    main branch, its shortcut and the expand agree within one forward pass. The draw uses torch's global
    generator. A pinned offset outlives passes, until it is unpinned.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.pinned: Offset | None = None
        self._drawn: Offset | None = None
        self._size: tuple[int, int] | None = None

    def current(self) -> Offset:
        """The pinned offset, else the one of this forward pass, drawn uniformly from the window if need be."""
        if self.pinned is not None:
            return self.pinned
        if self._drawn is None:
            h, w = self.window
            self._drawn = (int(torch.randint(h, ())), int(torch.randint(w, ())))
        return self._drawn

    def opened(self, x: Tensor) -> Tensor:
        """Shrink ``(n, c, i*h, j*w)`` at the offset in force; the level is open until it is expanded."""
        x = shrink(x, self.window, self.current())
        self._size = (x.shape[-2], x.shape[-1])
        return x

    def closed(self, x: Tensor) -> Tensor:
        """Expand ``(n, c, i, j)`` at the offset in force, which ends the pass for this level.

        Raises :class:`LayoutError` where the level is not open, or where a level inside it still is: the map is then
        smaller than the shrink made it.
        """
        window = f"{self.window[0]}x{self.window[1]}"
        if self._size is None:
            raise LayoutError(
                f"a merge of {window} has no open split: none that shares its offset has shrunk in this pass; give "
                "MergePool2d the split that it undoes"
            )
        if _is_split_further(self._size, (x.shape[-2], x.shape[-1])):
            (rows, columns), (height, width) = self._size, (x.shape[-2], x.shape[-1])
            raise LayoutError(
                f"a merge of {window} undoes a split that gave {rows}x{columns}, but what comes in is "
                f"{height}x{width}: a split inside it is still open; merge the innermost split first"
            )
        values = expand(x, self.window, self.current()).values
        self._drawn = None
        if self.pinned is None:
            # A pinned offset holds for every merge of the pass, and a drawn one for the first.
            self._size = None
        return values

    def release(self) -> None:
        """End of the pass for this level: the next shrink draws anew."""
        self._drawn = self._size = None


class SplitPool2d(nn.Module):
    """Split pooling (section 3.1): ``(n, c, i*h, j*w) -> (n*h*w, c, i, j)``, nothing lost.

    In training mode, or while its offset is pinned, it shrinks instead: ``(n, c, i, j)``, the split batch at
    one offset. Use one instance, or the same ``shared`` offset, wherever a level is split, in a main branch
    and in its shortcut alike.

    Args:
        window: ``(h, w)``, or one number for both.
        shared: the offset of another layer of the same level.
    """

    def __init__(self, window: int | Window, *, shared: SharedOffset | None = None) -> None:
        super().__init__()
        self.window = _pair(window)
        self.shared = _shared_offset(self.window, shared)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.shared.pinned is not None:
            return self.shared.opened(x)
        return split(x, self.window)

    def extra_repr(self) -> str:
        return f"window={self.window}"


class MergePool2d(nn.Module):
    """Merge pooling (section 3.1): the inverse of ``split``, ``(n*h*w, c, i, j) -> (n, c, i*h, j*w)``.

    Where its split shrinks (training mode, pinned offset), it expands: the sparse map, zero outside the
    sampled elements. It then raises :class:`LayoutError` where its split is not the innermost that is open: the values
    would lie at other pixels than those they were computed for.
    """

    def __init__(self, split: SplitPool2d) -> None:
        super().__init__()
        self.window = split.window
        self.shared = split.shared

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.shared.pinned is not None:
            return self.shared.closed(x)
        return merge(x, self.window)

    def extra_repr(self) -> str:
        return f"window={self.window}"


class ShrinkPool2d(nn.Module):
    """Shrink pooling (section 3.2): ``(n, c, i*h, j*w) -> (n, c, i, j)``, one element of every window.

    Args:
        window: ``(h, w)``, or one number for both.
        offset: a fixed sampling location. Without one it is drawn in training mode, once per forward pass,
            and is ``(0, 0)`` in evaluation mode.
    """

    def __init__(self, window: int | Window, offset: Offset | None = None) -> None:
        super().__init__()
        self.window = _pair(window)
        self.shared = SharedOffset(self.window)
        self.shared.pinned = offset

    @property
    def offset(self) -> Offset:
        """The sampling location in force: fixed, of the present forward pass, or ``(0, 0)`` in evaluation mode."""
        if self.shared.pinned is None and not self.training:
            return (0, 0)
        return self.shared.current()

    def forward(self, x: Tensor) -> Tensor:
        return shrink(x, self.window, self.offset)

    def extra_repr(self) -> str:
        return f"window={self.window}, offset={self.shared.pinned}"


class ExpandPool2d(nn.Module):
    """Expand pooling (section 3.2): puts what ``shrink`` sampled back at its place.

    ``(n, c, i, j) -> Expanded(values (n, c, i*h, j*w), mask (i*h, j*w))``. It ends the forward pass of its
    shrink, which then draws a new offset.
    """

    def __init__(self, shrink: ShrinkPool2d) -> None:
        super().__init__()
        # Not registered as a submodule: the shrink already is one, elsewhere in the network.
        self._shrink = (shrink,)

    def forward(self, x: Tensor) -> Expanded:
        (paired,) = self._shrink
        expanded = expand(x, paired.window, paired.offset)
        paired.shared.release()
        return expanded


@contextmanager
def pinned_offsets(offsets: Mapping[SplitPool2d, Offset]) -> Iterator[None]:
    """Make these splits shrink at these offsets, in evaluation mode too, inside the ``with`` block.

    A network whose first splits are pinned computes exactly the split batches of the full network at those
    offsets (docs/concepts.md); its other splits split as ever.
    """
    for layer, (row, column) in offsets.items():
        h, w = layer.window
        if not (0 <= row < h and 0 <= column < w):
            raise LayoutError(f"offset ({row}, {column}) lies outside a window of {h}x{w}")
    before = {layer: layer.shared.pinned for layer in offsets}
    try:
        for layer, offset in offsets.items():
            layer.shared.pinned = offset
        yield
    finally:
        for layer, pinned in before.items():
            layer.shared.pinned = pinned


def draw_offsets(splits: list[SplitPool2d]) -> dict[SplitPool2d, Offset]:
    """One uniformly drawn offset for each split, to be pinned: for training steps that never merge."""
    drawn = {id(layer.shared): SharedOffset(layer.window).current() for layer in splits}
    return {layer: drawn[id(layer.shared)] for layer in splits}


def _is_split_further(opened: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a map is smaller than a split left it by whole factors, as a further split leaves it.

    Other sizes come from layers without padding; those lie where they lie.
    """
    return opened != size and all(side and whole % side == 0 for whole, side in zip(opened, size, strict=True))


def _pair(window: int | Window) -> Window:
    h, w = (window, window) if isinstance(window, int) else window
    if h < 1 or w < 1:
        raise LayoutError(f"a pooling window is at least 1x1; received {h}x{w}")
    return (h, w)


def _shared_offset(window: Window, shared: SharedOffset | None) -> SharedOffset:
    if shared is None:
        return SharedOffset(window)
    if shared.window != window:
        raise LayoutError(f"a window of {window} cannot share the offset of a window of {shared.window}")
    return shared
