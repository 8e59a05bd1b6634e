"""The planner: which schedule of a bundle fits a memory budget, and which of those repeats the least work.

docs/memory.md says how the peak is predicted and how far off it was where it was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engines.backends import DEFAULT_BACKEND, backend_named
from engines.backends.base import Backend, Kind
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Manifest
from engines.errors import InputError
from engines.planning.sizes import bytes_of_memory, shown_bytes
from engines.planning.tunings import measured_seconds
from engines.schedules.schedule import Lowering, Precision, Schedule, named


@dataclass(frozen=True)
class Candidate:
    """One schedule and what it costs."""

    schedule: Schedule
    peak_bytes: int
    """Predicted. On a CPU without what the process holds before it opens a bundle, :attr:`Plan.process_bytes`; on a GPU
    all that a session takes of device memory."""
    compute: float
    """Operations of all phases, relative to the least that any trunk of the bundle needs."""
    largest_tensor: int
    """Elements."""
    too_large: bool
    """A tensor has more elements than the backend takes."""


@dataclass(frozen=True)
class Plan:
    """Every candidate, by compute and memory, and the one to take."""

    backend: Backend
    precision: Precision
    candidates: tuple[Candidate, ...]
    memory_bytes: int | None
    """The budget: of the whole process on a CPU, of device memory on a GPU."""
    choice: Candidate | None
    """``None`` without a budget."""
    reason: str
    tuned: bool = False
    """Whether the choice was measured on this device."""

    @property
    def measured(self) -> bool:
        """Whether the figures of the backend's memory were measured, or are assumptions."""
        return self.precision in self.backend.memory.measured

    @property
    def process_bytes(self) -> int:
        """What the process holds before it opens a bundle, a part of the budget."""
        return self.backend.memory.process_bytes

    def needed_bytes(self, candidate: Candidate) -> int:
        """The smallest budget that a candidate fits in."""
        return self.process_bytes + candidate.peak_bytes

    def fits(self, candidate: Candidate) -> bool:
        """Whether the backend can hold a candidate in the budget; without one, at all."""
        if candidate.too_large or self.memory_bytes is None:
            return not candidate.too_large
        return self.needed_bytes(candidate) <= self.memory_bytes


LOWERINGS_ON_GPUS = (Lowering.DILATED, Lowering.STRIDED, Lowering.RESHAPE)
"""The one that rearranges least first. It was the fastest for a large network on an H100, and 2% behind for a small one
(docs/results/nvidia-h100-80gb-hbm3.md)."""

FILLING_OPERATIONS = 5 * 10**11
"""Operations of a sub-batch that are taken to fill a GPU, between what two networks showed there: one gained 15% from
1.5e11 to 5.8e11 operations, the other 1% from 2.9e12 to 1.2e13."""

Seconds = Callable[[Schedule], float | None]
"""Measured seconds for one frame, where a measurement of this device is there."""


def plan(
    bundle: Bundle | str | Path,
    backend: str | Backend = DEFAULT_BACKEND,
    precision: Precision | str = Precision.FP32,
    *,
    memory: int | str | None = None,
    device: str | None = None,
) -> Plan:
    """The schedules of a bundle and, for a budget, the cheapest that fits.

    Cheapest is the least compute. Of equal compute it is the fastest where the bundle was tuned on this device. Else
    it is the reference lowering with the smallest predicted peak on a CPU, where a larger sub-batch is not faster, so
    the rest of the budget stays free; and on a GPU the lowering that rearranges least, with the largest sub-batch.

    Args:
        bundle: an open bundle, or the path of one, whose files are then verified.
        backend: a name of :data:`engines.backends.BACKENDS`, or a backend.
        precision: arithmetic of the trunk.
        memory: a budget, ``"1GiB"`` or bytes: what a process that does nothing else may hold on a CPU, device memory
            on a GPU.
        device: whose measurements count, ``"cuda:1"`` say; the backend's first by default.

    Raises:
        BundleError: the bundle is absent or damaged.
        BackendError: the backend has no such arithmetic.
        InputError: nothing fits (the message says the smallest budget that would), an unknown backend, a device of
            another kind, or no trunk of this precision.
        MissingDependency: the bundle has a tuning for the backend, and its runtime is missing.
    """
    bundle = Bundle.of(bundle)
    found, precision = backend_named(backend), named(Precision, "precision", precision)
    found.device(device)
    return plan_from_manifest(
        bundle.manifest,
        found,
        precision,
        memory_bytes=None if memory is None else bytes_of_memory(memory),
        seconds=measured_seconds(bundle, found, precision, device),
    )


def plan_from_manifest(
    manifest: Manifest,
    backend: Backend,
    precision: Precision,
    *,
    memory_bytes: int | None = None,
    seconds: Seconds = lambda schedule: None,
) -> Plan:
    """As :func:`plan`, from a manifest and known times."""
    backend.check_precision(precision)
    found = tuple(sorted(_candidates(manifest, backend, precision), key=_order))
    if not found:
        raise InputError(f'the bundle has no {precision.value} trunk; export it with precisions=("{precision.value}",)')
    planned = Plan(backend, precision, found, memory_bytes, None, "no budget: memory chooses")
    if memory_bytes is None:
        return planned
    fitting = [candidate for candidate in found if planned.fits(candidate)]
    if not fitting:
        raise InputError(_nothing_fits(planned, memory_bytes))
    choice = _cheapest(fitting, seconds, backend.kind)
    time = seconds(choice.schedule)
    return Plan(
        backend, precision, found, memory_bytes, choice, _reason(choice, time, backend.kind), tuned=time is not None
    )


def _candidates(manifest: Manifest, backend: Backend, precision: Precision) -> Iterator[Candidate]:
    """Every schedule of every trunk: an engine for it can be built, where the backend needs one."""
    least = max(min(map(manifest.frame_operations, manifest.trunks)), 1)
    graph, limit = backend.graph_precision(precision), backend.memory.largest_tensor
    for trunk in manifest.trunks:
        if graph not in trunk.graphs:
            continue
        for schedule in manifest.schedules_of(trunk):
            largest = trunk.largest_tensor * schedule.sub_batch
            yield Candidate(
                schedule,
                backend.memory.peak_bytes(manifest, schedule, precision),
                manifest.frame_operations(trunk) / least,
                largest,
                limit is not None and largest > limit,
            )


def _order(candidate: Candidate) -> tuple[float, int, int, int, str]:
    schedule = candidate.schedule
    compute = round(candidate.compute, 6)
    return compute, candidate.peak_bytes, schedule.sub_batch, schedule.levels, schedule.lowering.value


def _cheapest(fitting: list[Candidate], seconds: Seconds, kind: Kind) -> Candidate:
    least = round(fitting[0].compute, 6)
    equal = [candidate for candidate in fitting if round(candidate.compute, 6) == least]
    timed = [(time, candidate) for candidate in equal if (time := seconds(candidate.schedule)) is not None]
    if timed:
        return min(timed, key=lambda entry: (entry[0], _order(entry[1])))[1]
    if kind is Kind.GPU:
        return min(equal, key=_filling)
    # The reference form, unless a measurement says that another one is faster here.
    return next((c for c in equal if c.schedule.lowering is Lowering.RESHAPE), equal[0])


def _filling(candidate: Candidate) -> tuple[int, int, int]:
    """A GPU is filled by batches, and rearranging costs it more than it costs a CPU."""
    return LOWERINGS_ON_GPUS.index(candidate.schedule.lowering), -candidate.schedule.sub_batch, candidate.peak_bytes


def _reason(choice: Candidate, time: float | None, kind: Kind) -> str:
    compute = f"no schedule that fits needs less compute (x{choice.compute:.2f})"
    if time is not None:
        return f"{compute}, and of these it is the fastest measured on this device ({time:.3g} s)"
    if kind is Kind.GPU:
        return f"{compute}, and of these it rearranges least, in the largest sub-batch; tune says which is fastest"
    return f"{compute}, and of these it needs the least memory in its lowering; tune measures which is fastest"


def _nothing_fits(planned: Plan, memory_bytes: int) -> str:
    possible = [candidate for candidate in planned.candidates if not candidate.too_large]
    if not possible:
        least = min(candidate.largest_tensor for candidate in planned.candidates)
        return (
            f"every schedule of the bundle has a tensor of more elements ({least} at least) than {planned.backend} "
            f"takes ({planned.backend.memory.largest_tensor}); export for a smaller frame or with more levels"
        )
    smallest = min(possible, key=lambda candidate: candidate.peak_bytes)
    needed = planned.needed_bytes(smallest)
    of_process = f", {shown_bytes(planned.process_bytes)} of it for the process itself" if planned.process_bytes else ""
    return (
        f"no schedule fits {shown_bytes(memory_bytes)}; the smallest budget that would is "
        f"{shown_bytes(needed)} ({needed} bytes){of_process}, for {smallest.schedule}"
    )
