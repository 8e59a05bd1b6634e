"""How much memory a backend takes: predicted from the lifetimes of a graph's tensors, and from what was measured.

docs/memory.md says how the figures were found and how far off they are where they were measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from engines.bundle.manifest import Manifest, OutputKind, TrunkRecord
from engines.errors import LayoutError
from engines.executors.buffers import Buffers, buffers_of
from engines.schedules.schedule import Lowering, Precision, Schedule

MIB = 2**20

_WEIGHT_BYTES = {Precision.FP32: 4, Precision.TF32: 4, Precision.FP16: 2, Precision.BF16: 2, Precision.INT8: 1}


@dataclass(frozen=True)
class MemoryModel:
    """What a backend takes, in bytes: of the process on a CPU; on a GPU see :class:`DeviceMemoryModel`.

    A session needs the larger of two figures: what opening the bundle takes, and what a sub-batch takes, which are the
    weights, the frame, its planes, the result, the windows, and the tensors inside the trunk.
    """

    process_bytes: int = 0
    """The process before it opens a bundle: Python, numpy and the runtime. A budget on a CPU covers it too."""
    opening_bytes: int = 0
    """For sessions and code, when a bundle is opened."""
    opening: float = 1.0
    """The weights while it is opened, as a multiple of them: the largest are there twice for a moment."""
    runtime_bytes: int = 0
    """For sessions and code, at work."""
    weights: float = 1.0
    """What is held of the weights at work, as a multiple of them."""
    packing: float | None = 1.3
    """What is held for the tensors of a sub-batch, relative to the largest sum that is alive at once; ``None`` where
    they lie in the block whose size the manifest has (``packed_bytes``)."""
    arena: Mapping[Lowering, float] | None = None
    """Where they lie in the arena whose size the manifest has (``arena_bytes``): what is held relative to that."""
    computes_in: tuple[tuple[Precision, Precision], ...] = ()
    """``(precision, other)`` where the backend holds the tensors of one precision in another."""
    largest_tensor: int | None = None
    """Elements of the largest tensor that the backend takes; ``None`` for any."""
    measured: frozenset[Precision] = frozenset()
    """In which precisions these figures were measured; in the others they are assumptions."""

    def phase_bytes(self, manifest: Manifest, trunk: TrunkRecord, precision: Precision) -> int:
        """What is held for one phase of a sub-batch: its window and the tensors inside the trunk.

        Raises :class:`LayoutError` for a trunk without figures of this precision.
        """
        return _window_bytes(manifest, trunk) + self.tensor_bytes(manifest, trunk, precision)

    def tensor_bytes(self, manifest: Manifest, trunk: TrunkRecord, precision: Precision) -> int:
        """What is held for the tensors inside the trunk, for one phase; raises as :meth:`phase_bytes` does."""
        held = self._held(precision)

        def of(known: Mapping[Precision, int]) -> int:
            if held not in known:
                raise LayoutError(f"the bundle says nothing of the memory of its trunks in {held.value}")
            return known[held]

        if self.arena is not None:
            return round(self.arena[trunk.lowering] * of(trunk.arena_bytes))
        if self.packing is None:
            return of(trunk.packed_bytes)
        return round(self.packing * max(of(trunk.live_bytes) - _window_bytes(manifest, trunk), 0))

    def sub_batch_bytes(self, manifest: Manifest, schedule: Schedule, precision: Precision) -> int:
        """What is held for one sub-batch of a schedule; raises as :meth:`phase_bytes` does."""
        return schedule.sub_batch * self.phase_bytes(manifest, manifest.trunk_of(schedule), precision)

    def peak_bytes(self, manifest: Manifest, schedule: Schedule, precision: Precision) -> int:
        """The peak of a session, above :attr:`process_bytes`; raises as :meth:`phase_bytes` does."""
        weights = self.weight_bytes(manifest, precision)
        height, width = manifest.grid(manifest.trunk_of(schedule)).planes_size
        planes = 3 * 4 * height * width
        result = math.prod(manifest.input.padded_size) * _pixel_bytes(manifest)
        if manifest.input.padded_size != manifest.input.size:
            # The result is cropped into an array of its own.
            result *= 2
        frame = 3 * math.prod(manifest.input.size)
        working = frame + planes + result + self.sub_batch_bytes(manifest, schedule, precision)
        opening = self.opening_bytes + round(self.opening * weights)
        return max(opening, self.runtime_bytes + round(self.weights * weights) + working)

    def needed_bytes(self, manifest: Manifest, schedule: Schedule, precision: Precision) -> int:
        """The smallest budget that a schedule fits in; raises as :meth:`phase_bytes` does."""
        return self.process_bytes + self.peak_bytes(manifest, schedule, precision)

    def weight_bytes(self, manifest: Manifest, precision: Precision) -> int:
        """The weights as the backend holds them, once."""
        return manifest.network.parameters * _WEIGHT_BYTES[self._held(precision)]

    def _held(self, precision: Precision) -> Precision:
        return dict(self.computes_in).get(precision, precision.graph)


@dataclass(frozen=True)
class DeviceMemoryModel(MemoryModel):
    """What a session takes of a GPU's memory beyond the context and the loaded kernels.

    That is the executor's buffers, which are known to the byte, and what the runtime holds: the weights, the tensors
    inside both engines, and what sessions need of their own, :attr:`runtime_bytes`.
    """

    prepared: float = 2.0
    """The tensors inside ``prepare.onnx``, as a multiple of the planes."""
    context_bytes: int | None = None
    """CUDA's context and the loaded kernels, which come on top; ``None`` where that was not measured."""
    shares_memory: bool = True
    """Whether the engines of ``prepare.onnx`` and of the trunk, which take turns, share one block."""

    def buffers(self, manifest: Manifest, schedule: Schedule) -> Buffers:
        """The executor's."""
        grid = manifest.grid(manifest.trunk_of(schedule))
        return buffers_of(grid, schedule.sub_batch, _pixel_bytes(manifest))

    def prepare_bytes(self, manifest: Manifest, schedule: Schedule) -> int:
        """What the runtime holds for ``prepare.onnx``."""
        return round(self.prepared * self.buffers(manifest, schedule).planes)

    def trunk_bytes(self, manifest: Manifest, schedule: Schedule, precision: Precision) -> int:
        """What the runtime holds for the trunk; raises as :meth:`phase_bytes` does."""
        tensors = schedule.sub_batch * self.tensor_bytes(manifest, manifest.trunk_of(schedule), precision)
        return round(self.weights * self.weight_bytes(manifest, precision)) + tensors

    def managed_bytes(self, manifest: Manifest, schedule: Schedule, precision: Precision) -> int:
        """What the runtime holds in all; raises as :meth:`phase_bytes` does."""
        trunk, prepare = self.trunk_bytes(manifest, schedule, precision), self.prepare_bytes(manifest, schedule)
        return self.runtime_bytes + (max(trunk, prepare) if self.shares_memory else trunk + prepare)

    def peak_bytes(self, manifest: Manifest, schedule: Schedule, precision: Precision) -> int:
        """Of a session; raises as :meth:`phase_bytes` does."""
        return self.buffers(manifest, schedule).on_device + self.managed_bytes(manifest, schedule, precision)


def _window_bytes(manifest: Manifest, trunk: TrunkRecord) -> int:
    """Of one phase: three float32 planes."""
    return 3 * 4 * math.prod(manifest.grid(trunk).crop_size)


def _pixel_bytes(manifest: Manifest) -> int:
    """Of the prediction of one pixel: a label, or a float32 for each class."""
    return 1 if manifest.outputs is OutputKind.LABELS else 4 * len(manifest.classes)
