"""The planner: which schedule of a bundle fits a memory budget, and which of those repeats the least work.

docs/memory.md says how the peak is predicted and how far off it was where it was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engines.backends.onnxruntime import NO_BF16
from engines.backends.tensorrt.limits import MAX_ELEMENTS
from engines.bundle.manifest import Lowering, Manifest, OutputKind, Precision, TrunkRecord
from engines.errors import BackendError, InputError
from engines.schedules.schedule import Schedule

MIB = 2**20


@dataclass(frozen=True)
class Calibration:
    """What a backend takes beyond the lifetimes of a graph's tensors."""

    opening_bytes: int
    """For sessions and code, when a bundle is opened."""
    opening: float
    """The weights while it is opened, as a multiple of them: the largest are there twice for a moment."""
    runtime_bytes: int
    """For sessions and code, at work."""
    packing: float | None
    """What is held for the tensors of a sub-batch, relative to the largest sum that is alive at once; ``None`` where
    they lie in one block, whose size the manifest has."""
    widens_half: bool
    """The backend computes fp16 graphs in fp32."""
    largest_tensor: int | None
    """Elements of the largest tensor that the backend takes; ``None`` for any."""
    measured: bool
    """Whether these figures were measured, or are assumptions."""


_CPU = Calibration(
    opening_bytes=12 * MIB,
    opening=1.65,
    runtime_bytes=22 * MIB,
    packing=None,
    widens_half=True,
    largest_tensor=None,
    measured=True,
)
_CUDA = Calibration(0, 1.0, 0, 1.3, widens_half=False, largest_tensor=None, measured=False)
_TENSORRT = Calibration(0, 1.0, 0, 1.3, widens_half=False, largest_tensor=MAX_ELEMENTS, measured=False)

CALIBRATIONS = {
    "onnxruntime": _CPU,
    "onnxruntime-cuda": _CUDA,
    "tensorrt": _TENSORRT,
    "tensorrt-rtx": _TENSORRT,
}
"""By the name of the backend."""


@dataclass(frozen=True)
class Candidate:
    """One schedule and what it costs."""

    schedule: Schedule
    peak_bytes: int
    """Predicted: above the empty process on a CPU, of device memory on a GPU."""
    compute: float
    """Operations of all phases, relative to the least that any trunk of the bundle needs."""
    largest_tensor: int
    """Elements."""
    too_large: bool
    """A tensor has more elements than the backend takes."""

    def fits(self, memory_bytes: int | None) -> bool:
        """Whether the backend can hold it in so much memory; without a budget, at all."""
        return not self.too_large and (memory_bytes is None or self.peak_bytes <= memory_bytes)


@dataclass(frozen=True)
class Plan:
    """Every candidate, by compute and memory, and the one to take."""

    candidates: tuple[Candidate, ...]
    memory_bytes: int | None
    choice: Candidate | None
    """``None`` without a budget."""
    reason: str
    measured: bool
    """Whether the calibration of the backend was measured."""


Seconds = Callable[[Schedule], float | None]
"""Measured seconds for one frame, where a measurement of this device is there."""


def plan(
    manifest: Manifest,
    memory_bytes: int | None = None,
    *,
    precision: Precision = Precision.FP32,
    backend: str = "onnxruntime",
    seconds: Seconds = lambda schedule: None,
) -> Plan:
    """The schedules of a bundle and, for a budget, the cheapest that fits.

    Cheapest is the least compute. Of equal compute it is the least measured time where ``seconds`` knows some, else
    the reference lowering with the smallest predicted peak: on a CPU a larger sub-batch is not faster, so the rest of
    the budget stays free.

    Args:
        manifest: of the bundle.
        memory_bytes: for what is held above the empty process on a CPU, of device memory on a GPU.
        precision: arithmetic of the trunk.
        backend: a key of :data:`CALIBRATIONS`.
        seconds: measured times, where there are some.

    Raises:
        BackendError: the backend has no such arithmetic.
        InputError: nothing fits (the message says the smallest budget that would), an unknown backend, or no trunk of
            this precision.
    """
    calibration = _calibration(backend)
    found = tuple(sorted(_candidates(manifest, precision, calibration), key=_order))
    if not found:
        raise InputError(f"the bundle has no {precision.value} trunk; export it with --precision {precision.value}")
    if memory_bytes is None:
        return Plan(found, None, None, "no budget: --memory chooses", calibration.measured)
    fitting = [candidate for candidate in found if candidate.fits(memory_bytes)]
    if not fitting:
        raise InputError(_nothing_fits(found, memory_bytes, backend))
    choice = _cheapest(fitting, seconds)
    return Plan(found, memory_bytes, choice, _reason(choice, fitting, seconds), calibration.measured)


def shown_bytes(size: int) -> str:
    """``"1000.0 MiB"``, or ``"1.5 KiB"`` below one MiB, rounded up, so that a budget of what is shown suffices."""
    unit, name = (MIB, "MiB") if size >= MIB else (2**10, "KiB")
    return f"{math.ceil(size / unit * 10) / 10:.1f} {name}"


def sub_batch_bytes(manifest: Manifest, schedule: Schedule, precision: Precision, backend: str) -> int:
    """What a backend holds for one sub-batch: its windows and the tensors inside the trunk.

    Raises :class:`InputError` for an unknown backend, :class:`BackendError` for arithmetic that it has not.
    """
    trunk = manifest.trunk(schedule.levels, schedule.lowering)
    return schedule.sub_batch * _phase_bytes(manifest, trunk, precision, _calibration(backend))


def _calibration(backend: str) -> Calibration:
    if backend not in CALIBRATIONS:
        raise InputError(f"nothing is known of the memory of {backend!r}; known are {', '.join(CALIBRATIONS)}")
    return CALIBRATIONS[backend]


def _candidates(manifest: Manifest, precision: Precision, calibration: Calibration) -> Iterator[Candidate]:
    least = max(min(map(manifest.frame_operations, manifest.trunks)), 1)
    for trunk in manifest.trunks:
        if precision not in trunk.graphs:
            continue
        for sub_batch in _sub_batches(manifest.grid(trunk).largest_sub_batch):
            largest = trunk.largest_tensor * sub_batch
            yield Candidate(
                Schedule(trunk.levels, sub_batch, trunk.lowering),
                _peak_bytes(manifest, trunk, sub_batch, precision, calibration),
                manifest.frame_operations(trunk) / least,
                largest,
                calibration.largest_tensor is not None and largest > calibration.largest_tensor,
            )


def _sub_batches(largest: int) -> list[int]:
    """Powers of two, and the largest."""
    return sorted({*(2**power for power in range(largest.bit_length())), largest})


_WEIGHT_BYTES = {Precision.FP32: 4, Precision.FP16: 2, Precision.BF16: 2, Precision.INT8: 1}


def _peak_bytes(
    manifest: Manifest, trunk: TrunkRecord, sub_batch: int, precision: Precision, calibration: Calibration
) -> int:
    """The larger of what opening the bundle and what a sub-batch needs.

    A sub-batch needs the weights, the frame, its planes, the result, the windows, and the tensors inside the trunk.
    """
    weights = manifest.network.parameters * _WEIGHT_BYTES[_held(precision, calibration)]
    height, width = manifest.grid(trunk).planes_size
    planes = 3 * 4 * height * width
    result = math.prod(manifest.input.padded_size) * (
        1 if manifest.outputs is OutputKind.LABELS else 4 * len(manifest.classes)
    )
    if manifest.input.padded_size != manifest.input.size:
        # The result is cropped into an array of its own.
        result *= 2
    frame = 3 * math.prod(manifest.input.size)
    working = frame + planes + result + sub_batch * _phase_bytes(manifest, trunk, precision, calibration)
    opening = calibration.opening_bytes + round(calibration.opening * weights)
    return max(opening, calibration.runtime_bytes + weights + working)


def _phase_bytes(manifest: Manifest, trunk: TrunkRecord, precision: Precision, calibration: Calibration) -> int:
    """For one phase of a sub-batch."""
    rows, columns = manifest.grid(trunk).crop_size
    windows, held = 3 * 4 * rows * columns, _held(precision, calibration)
    if calibration.packing is None:
        if held not in trunk.packed_bytes:
            raise BackendError(NO_BF16)
        return windows + trunk.packed_bytes[held]
    return windows + round(calibration.packing * max(trunk.live_bytes[held] - windows, 0))


def _held(precision: Precision, calibration: Calibration) -> Precision:
    return Precision.FP32 if calibration.widens_half and precision is Precision.FP16 else precision


def _order(candidate: Candidate) -> tuple[float, int, int, int, str]:
    schedule = candidate.schedule
    compute = round(candidate.compute, 6)
    return compute, candidate.peak_bytes, schedule.sub_batch, schedule.levels, schedule.lowering.value


def _cheapest(fitting: list[Candidate], seconds: Seconds) -> Candidate:
    least = round(fitting[0].compute, 6)
    equal = [candidate for candidate in fitting if round(candidate.compute, 6) == least]
    timed = [(time, candidate) for candidate in equal if (time := seconds(candidate.schedule)) is not None]
    if timed:
        return min(timed, key=lambda entry: (entry[0], _order(entry[1])))[1]
    # The reference form, unless a measurement says that another one is faster here.
    return next((c for c in equal if c.schedule.lowering is Lowering.RESHAPE), equal[0])


def _reason(choice: Candidate, fitting: list[Candidate], seconds: Seconds) -> str:
    compute = f"no schedule that fits needs less compute (x{choice.compute:.2f})"
    time = seconds(choice.schedule)
    if time is not None:
        return f"{compute}, and of these it is the fastest measured on this device ({time:.3g} s)"
    return f"{compute}, and of these it needs the least memory in its lowering; tune measures which is fastest"


def _nothing_fits(found: tuple[Candidate, ...], memory_bytes: int, backend: str) -> str:
    possible = [candidate for candidate in found if not candidate.too_large]
    if not possible:
        least = min(candidate.largest_tensor for candidate in found)
        return (
            f"every schedule of the bundle has a tensor of more elements ({least} at least) than {backend} takes "
            f"({MAX_ELEMENTS}); export for a smaller frame or with more --levels"
        )
    smallest = min(possible, key=lambda candidate: candidate.peak_bytes)
    return (
        f"no schedule fits {shown_bytes(memory_bytes)}; the smallest budget that would is "
        f"{shown_bytes(smallest.peak_bytes)} ({smallest.peak_bytes} bytes), for {smallest.schedule}"
    )
