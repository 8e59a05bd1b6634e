"""What ONNX Runtime holds for the tensors of a graph on a GPU.

Its arena takes a region from the device whenever no free chunk is large enough, exactly as large as is asked for. A
chunk is cut where it is twice as large as what it shall hold, and pieces of one region join again, but regions never
do: a network whose tensors grow from layer to layer holds the regions of the smaller ones beside those of the largest.

Convolutions read and write channels last, and there are copies between that layout and the plain one. Nothing takes
over what stands behind it.
"""

from __future__ import annotations

import onnx_ir as ir

from converters.graphs.packing import Layout, Tensor, hold

_CHANNELS_LAST = Layout(block=1, few=0, fuses=False)
_ALIGNMENT = 256
_MOST_DEAD = 128 * 2**20
"""Bytes: with more to spare a chunk is cut, too."""


def arena_bytes(model: ir.Model) -> int:
    """Size of the arena after a run, for a first axis of one.

    Inputs, outputs, weights and the scratch memory of kernels are not counted.
    """
    arena = _Arena()
    hold(model, _CHANNELS_LAST, arena)
    return arena.size


class _Arena:
    """Regions of chunks, each held by a tensor or free."""

    def __init__(self) -> None:
        self._regions: list[list[tuple[int, Tensor | None]]] = []

    @property
    def size(self) -> int:
        """Bytes of all regions."""
        return sum(size for region in self._regions for size, _ in region)

    def add(self, tensor: Tensor) -> None:
        """Put it into the smallest free chunk that is large enough, else into a new region."""
        wanted = -(-tensor.size // _ALIGNMENT) * _ALIGNMENT
        free = [
            (size, number, index)
            for number, region in enumerate(self._regions)
            for index, (size, holder) in enumerate(region)
            if holder is None and size >= wanted
        ]
        if not free:
            self._regions.append([(wanted, tensor)])
            return
        size, number, index = min(free)
        if size >= 2 * wanted or size - wanted >= _MOST_DEAD:
            self._regions[number][index : index + 1] = [(wanted, tensor), (size - wanted, None)]
        else:
            self._regions[number][index] = (size, tensor)

    def remove(self, tensor: Tensor) -> None:
        """Free its chunk, and join it with the free ones beside it."""
        for region in self._regions:
            for index, (size, holder) in enumerate(region):
                if holder is tensor:
                    region[index] = (size, None)
                    _join(region, index)
                    _join(region, index - 1)
                    return


def _join(region: list[tuple[int, Tensor | None]], index: int) -> None:
    """The free chunks at ``index`` and behind it become one."""
    pair = region[index : index + 2] if index >= 0 else []
    if len(pair) == 2 and all(holder is None for _, holder in pair):
        region[index : index + 2] = [(sum(size for size, _ in pair), None)]
