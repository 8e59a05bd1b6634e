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
from converters.verification.forms import FrameForm
from converters.verification.layers import placed
from converters.verification.probes import ProbedGraph, probed
from engines.backends.onnxruntime.runner import OnnxRuntimeRunner
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import TrunkRecord
from engines.errors import BackendError, LayoutError
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
    misshapen: str = ""
    """What the graph gave where that is not the shape of a phase's predictions; then there are no logits."""


Results = dict[Phase, PhaseResult]


Ran: TypeAlias = Results | BackendError
"""What a trunk gave, or what ended its run."""


def attempted(work: Callable[[], _Result]) -> _Result | BackendError:
    """What ``work`` gives, or the error of the runtime that ended it: the other checks go on.

    A graph that takes or gives other shapes than its manifest says is such an error, too.
    """
    try:
        return work()
    except BackendError as error:
        return error
    except LayoutError as error:
        return BackendError(str(error))


def ran(run: TrunkRun | BackendError, planes: NDArray[np.float32] | BackendError, phases: Sequence[Phase]) -> Ran:
    """Phases of a frame, unless opening the trunk or preparing the frame ended in an error already."""
    if isinstance(run, BackendError):
        return run
    if isinstance(planes, BackendError):
        return planes
    return attempted(lambda: {phase: run.at(planes, phase) for phase in phases})


Entry: TypeAlias = tuple[NDArray[np.float32], Phase]
"""Of a sub-batch: the planes of a frame, and a phase of it."""


class TrunkRun:
    """A trunk in ONNX Runtime; a context manager.

    Args:
        bundle: that it is of.
        trunk: which one.
        precision: of its graph.
        measured: whether the magnitudes of its tensors are asked for.
        form: the frame size to run it for, where it is not the bundle's.
    """

    def __init__(
        self,
        bundle: Bundle,
        trunk: TrunkRecord,
        precision: Precision,
        *,
        measured: bool = False,
        form: FrameForm | None = None,
    ) -> None:
        manifest = bundle.manifest
        form = form or FrameForm(bundle, manifest.input.size, manifest.input.padded_size)
        self.trunk, self.precision, self.grid = trunk, precision, form.grid(trunk)
        self.graph = form.trunk(trunk, precision)
        self._shape = form.prediction_shape(trunk)
        self._windows, self._output = manifest.windows, manifest.outputs.value
        self._logits = self.graph.logits(self._output)
        self._measured = self.graph.arithmetic if measured else {}
        self._runner = self.graph.runner([self._logits], self._measured.values())

    @property
    def name(self) -> str:
        """The graph's file name."""
        return self.graph.path.name

    def at(self, planes: NDArray[np.float32], phase: Phase) -> PhaseResult:
        """One phase of a frame's planes."""
        return self.together([(planes, phase)])[0]

    def together(self, entries: Sequence[Entry]) -> list[PhaseResult]:
        """A sub-batch, whose phases share their inner offsets; each entry may be of another frame."""
        feed = self.grid.feed(entries[0][0], [phase for _, phase in entries])
        feed["windows"] = np.concatenate([self.grid.cut(planes, [phase]) for planes, phase in entries])
        results = self._runner.infer(feed)
        output, logits = results[self._output], entries_of(probed(results, self._logits), len(entries), self.trunk)
        wanted = (len(entries), *self._shape)
        if output.shape != wanted:
            words = f"gives {self._output} of {output.shape} where {wanted} are expected"
            return [PhaseResult(np.empty(0), None, {}, words) for _ in entries]
        magnitudes = self._magnitudes(results)
        return [
            PhaseResult(output[index], self._placed(logits, index, phase), magnitudes)
            for index, (_, phase) in enumerate(entries)
        ]

    def _placed(self, logits: NDArray[np.float32] | None, index: int, phase: Phase) -> NDArray[np.float32] | None:
        if logits is None:
            return None
        outermost = self.trunk.lowering is Lowering.STRIDED
        put = placed(logits[index], self.grid.padded_size, self._windows, phase, outermost=outermost)
        return put.values if put is not None and put.window == self.grid.window else None

    def _magnitudes(self, results: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
        magnitudes = {}
        for name, tensor in self._measured.items():
            # Whatever is not finite shows in the sum; the largest value alone may hide a NaN.
            largest = max(float(results[f"max:{tensor}"]), -float(results[f"min:{tensor}"]))
            total = float(results[f"sum:{tensor}"])
            magnitudes[name] = largest if np.isfinite(total) else total
        return magnitudes

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            opening.enter_context(self._runner)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()


def entries_of(values: NDArray[np.float32], count: int, trunk: TrunkRecord) -> NDArray[np.float32] | None:
    """A tensor of a sub-batch by entry: ``(count, split batches, ...)``; ``None`` where it does not come apart.

    Strided splits put the phase outermost, so the entries of the sub-batch are the innermost part there.
    """
    if not values.ndim or len(values) % count:
        return None
    if trunk.lowering is Lowering.STRIDED:
        return values.reshape(-1, count, *values.shape[1:]).swapaxes(0, 1)
    return values.reshape(count, -1, *values.shape[1:])


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
