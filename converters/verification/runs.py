"""Running trunks and the whole graph so that their logits can be seen, whatever a bundle gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from converters.memory import available_bytes
from converters.verification.layers import placed
from converters.verification.probes import ProbedGraph, probed
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import TrunkRecord
from engines.errors import BackendError
from engines.schedules.phases import Phase, PhaseGrid
from engines.schedules.schedule import Lowering, Precision

if TYPE_CHECKING:
    from typing_extensions import Self

_Number = TypeVar("_Number", bound=np.generic)
_Result = TypeVar("_Result")

# ONNX Runtime held 6 times the largest tensor of SMP-18 when it ran the whole graph at 256x512 without an arena.
_PEAK_PER_LARGEST_TENSOR = 8


@dataclass(frozen=True)
class PhaseResult:
    """What a trunk gave for one phase."""

    output: NDArray[np.generic]
    """Labels ``(i, j)``, or ``(classes, i, j)``."""
    logits: NDArray[np.float32] | None
    """``(classes, i, j)``; ``None`` where the graph's split batches could not be put in place."""
    magnitudes: dict[str, float]
    """Largest absolute value of every tensor, by the name of its node; NaN or infinite where one is not finite."""


Results = dict[Phase, PhaseResult]


Ran: TypeAlias = Results | BackendError
"""What a trunk gave, or what ended its run."""


def attempted(work: Callable[[], _Result]) -> _Result | BackendError:
    """What ``work`` gives, or the error of the runtime that ended it: the other checks go on."""
    try:
        return work()
    except BackendError as error:
        return error


def ran(run: TrunkRun | BackendError, planes: NDArray[np.float32] | BackendError, phases: Sequence[Phase]) -> Ran:
    """Phases of a frame, unless opening the trunk or preparing the frame ended in an error already."""
    if isinstance(run, BackendError):
        return run
    if isinstance(planes, BackendError):
        return planes
    return attempted(lambda: {phase: run.at(planes, phase) for phase in phases})


class TrunkRun:
    """A trunk in ONNX Runtime; a context manager."""

    def __init__(self, bundle: Bundle, trunk: TrunkRecord, precision: Precision, *, measured: bool = False) -> None:
        manifest = bundle.manifest
        self.trunk, self.precision, self.grid = trunk, precision, manifest.grid(trunk)
        self.graph = ProbedGraph(bundle.file(bundle.trunk_graph(trunk, precision)), precision)
        self._windows, self.output = manifest.windows, manifest.outputs.value
        self.logits = self.graph.logits(self.output)
        self._measured = self.graph.arithmetic if measured else {}
        self._runner = self.graph.runner([self.logits], self._measured.values())

    @property
    def name(self) -> str:
        """The graph's file name."""
        return self.graph.path.name

    def feed(self, planes: NDArray[np.float32], phases: list[Phase]) -> dict[str, NDArray[np.generic]]:
        """Inputs for one sub-batch."""
        return self.grid.feed(planes, phases)

    def at(self, planes: NDArray[np.float32], phase: Phase) -> PhaseResult:
        """One phase of a frame's planes."""
        results = self._runner.infer(self.feed(planes, [phase]))
        logits = probed(results, self.logits)
        put = placed(
            logits, self.grid.padded_size, self._windows, phase, outermost=self.trunk.lowering is Lowering.STRIDED
        )
        fits = put is not None and put.window == self.grid.window
        magnitudes = {}
        for name, tensor in self._measured.items():
            # Whatever is not finite shows in the sum; the largest value alone may hide a NaN.
            largest = max(float(results[f"max:{tensor}"]), -float(results[f"min:{tensor}"]))
            total = float(results[f"sum:{tensor}"])
            magnitudes[name] = largest if np.isfinite(total) else total
        return PhaseResult(results[self.output][0], put.values if put is not None and fits else None, magnitudes)

    def raw(self, planes: NDArray[np.float32], phases: list[Phase]) -> NDArray[np.float32]:
        """The logits of a sub-batch, ``(phases, ...)``: each entry's split batches one after the other.

        Strided splits put the phase outermost, so the entries of the sub-batch are the innermost part there.
        """
        logits = probed(self._runner.infer(self.feed(planes, phases)), self.logits)
        if self.trunk.lowering is Lowering.STRIDED:
            return logits.reshape(-1, len(phases), *logits.shape[1:]).swapaxes(0, 1)
        return logits.reshape(len(phases), -1, *logits.shape[1:])

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            opening.enter_context(self._runner)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def logits_of(results: Results) -> dict[Phase, NDArray[np.float32]]:
    """The logits of the phases that have some."""
    return {phase: result.logits for phase, result in results.items() if result.logits is not None}


def merged(grid: PhaseGrid, values: Mapping[Phase, NDArray[_Number]]) -> NDArray[_Number]:
    """``(..., i, j)`` of each phase at its pixels of a frame: ``(..., H, W)``, zero where there is no phase."""
    some = next(iter(values.values()))
    full = np.zeros((*some.shape[:-2], *grid.padded_size), some.dtype)
    for phase, value in values.items():
        grid.place(value[None], [phase], full)
    return np.asarray(grid.unpadded(full), some.dtype)


def opened_run(
    opening: ExitStack, bundle: Bundle, trunk: TrunkRecord, precision: Precision, *, measured: bool = False
) -> TrunkRun | BackendError:
    """A trunk that is closed with ``opening``, or why it cannot be opened."""
    return attempted(lambda: opening.enter_context(TrunkRun(bundle, trunk, precision, measured=measured)))


def lack_of_memory(bundle: Bundle) -> str | None:
    """Why ``model.onnx`` cannot run here; ``None`` where it can."""
    shapes = ProbedGraph(bundle.file(bundle.manifest.model)).shapes()
    largest = max(4 * math.prod(shape) for shape in shapes.values())
    needed, available = _PEAK_PER_LARGEST_TENSOR * largest, available_bytes()
    if needed <= available:
        return None
    return f"needs about {needed / 2**30:.0f} GiB of memory, {available / 2**30:.0f} GiB are free"


def whole_logits(bundle: Bundle, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``(classes, H, W)`` of ``model.onnx``."""
    with OnnxRuntimeRunner(bundle.file(bundle.manifest.model), arena=False) as runner:
        return np.asarray(runner.infer({"frames": image[None]})["logits"][0], np.float32)
