"""A session: frames in, predictions out, phase by phase."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from engines.backends import DEFAULT_BACKEND, backend_named
from engines.backends.backend import Backend
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Manifest, OutputKind
from engines.errors import BackendError, FrameError, InputError, OutOfMemory
from engines.executors.base import Executor, LoadedFrame, PendingPhases
from engines.executors.reducing import OpenedExecutor, OpenExecutor, ReducingExecutor, Reduction
from engines.planning.choice import choose_schedule, named_schedule
from engines.planning.smaller import smaller_schedules
from engines.schedules.anytime import NearestFill, Refinement
from engines.schedules.phases import Phase, PhaseGrid
from engines.schedules.schedule import Precision, Schedule, named

if TYPE_CHECKING:
    from typing_extensions import Self

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with ``(phases done, phases in all)``."""


@dataclass(frozen=True)
class _Step:
    """One sub-batch of a walk is merged."""

    grid: PhaseGrid
    phases: list[Phase]
    merged: NDArray[Any]
    """The padded result so far, another array after the walk began anew."""


class _Taken:
    """An image, and its frame on the executor that it is loaded on."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self._image = image
        self._where: OpenedExecutor | None = None
        self._frame: LoadedFrame | None = None

    def frame_on(self, where: OpenedExecutor) -> LoadedFrame:
        """The frame there, loaded unless it was."""
        if self._frame is None or self._where is not where:
            self.close()
            self._frame, self._where = where.executor.load(self._image), where
        return self._frame

    def close(self) -> None:
        """The frame's place is free for others."""
        if self._frame is not None:
            self._frame.close()
            self._frame = None


class Session:
    """An open bundle on a backend. Close it, or use it as a context manager.

    :meth:`predict` walks the phases of its schedule: it prepares the frame once, computes the phases sub-batch by
    sub-batch, and puts every prediction back at its pixel. Calls from several threads are safe: they take turns,
    sub-batch by sub-batch.
    """

    def __init__(
        self, bundle: Bundle, open_executor: OpenExecutor, schedule: Schedule, smaller: Iterable[Schedule] = ()
    ) -> None:
        """Open ``schedule``, or the first of ``smaller`` that fits; raises what ``open_executor`` does."""
        self.bundle = bundle
        self._executors = ReducingExecutor(open_executor, schedule, smaller)
        self._filling_s: float | None = None
        """How long it took at most to fill in what a deadline left out."""

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | Path,
        backend: str | Backend = DEFAULT_BACKEND,
        *,
        precision: Precision | str = Precision.FP32,
        schedule: Schedule | None = None,
        memory: int | str | None = None,
        device: str | None = None,
        allow_smaller: bool = False,
    ) -> Self:
        """Open a bundle.

        Args:
            bundle: an open bundle, or the path of one, whose files are then verified.
            backend: a name of :data:`engines.backends.BACKENDS`, or a backend.
            precision: arithmetic of the trunk.
            schedule: which levels are walked, how many phases at a time, in which lowering; by default
                :func:`engines.choose_schedule`'s. A sub-batch larger than the phases that can go together is one of
                all of them.
            memory: choose the schedule from a budget, ``"1GiB"`` or bytes: what a process that does nothing else may
                hold on a CPU, device memory on a GPU.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; the backend's first by default.
            allow_smaller: when memory runs out, here or in a later call, go on with the next smaller schedule that
                the bundle has a trunk or an engine for; :attr:`reductions` tells.

        Raises:
            BundleError: the bundle is absent, damaged or has no trunk, or no engine, of this schedule and precision.
            InputError: an unknown backend, a device of another kind, a budget that nothing fits or that stands beside
                a schedule.
            MachineError: the runtime is missing or refuses the work.
            OutOfMemory: the memory does not suffice.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        on, arithmetic = backend_named(backend), named(Precision, precision)
        if schedule is None:
            chosen = choose_schedule(opened, on, arithmetic, memory=memory, device=device).schedule
        elif memory is not None:
            raise InputError("memory chooses the schedule; leave out schedule")
        else:
            chosen = named_schedule(opened.manifest, schedule.levels, schedule.sub_batch, schedule.lowering)
        smaller = smaller_schedules(opened.manifest, on, arithmetic, chosen) if allow_smaller else ()
        return cls(opened, lambda wanted: on.open(opened, arithmetic, wanted, device), chosen, smaller)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self.bundle.manifest

    @property
    def schedule(self) -> Schedule:
        """What is walked; another one after memory ran out, if that was allowed."""
        return self._executors.schedule

    @property
    def grid(self) -> PhaseGrid:
        """The phases that :meth:`predict` walks."""
        return self._grid(self.schedule)

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """What did not fit, and what was tried in its place, in this order."""
        return self._executors.reductions

    @property
    def executor(self) -> Executor:
        """What does the work: its memory and its notes."""
        return self._executors.current().executor

    @overload
    def predict(self, image: NDArray[np.uint8], *, on_progress: OnProgress | None = None) -> NDArray[Any]: ...

    @overload
    def predict(
        self, image: NDArray[np.uint8], *, deadline_ms: float, on_progress: OnProgress | None = None
    ) -> Refinement: ...

    def predict(
        self, image: NDArray[np.uint8], *, deadline_ms: float | None = None, on_progress: OnProgress | None = None
    ) -> NDArray[Any] | Refinement:
        """Label one frame.

        Args:
            image: ``(H, W, 3)`` uint8 RGB in [0, 255], of the bundle's size.
            deadline_ms: give what is there by then, in milliseconds from the call. At least one sub-batch is
                computed; no further one is begun that, as slow as the slowest so far, would end too late.
            on_progress: called with ``(phases done, phases in all)`` after every sub-batch.

        Returns:
            Labels ``(H, W)`` uint8, or ``(classes, H, W)`` float32 for a bundle of logits or probabilities;
            the caller's own array. With a deadline a :class:`~engines.schedules.anytime.Refinement`, which also says
            which pixels were computed.

        Raises:
            FrameError: another dtype, shape or size.
            InputError: a deadline that is no positive number.
            BackendError: the runtime failed, or the session is closed.
            OutOfMemory: the memory does not suffice, and no smaller schedule was allowed or fits.
        """
        started = time.monotonic()
        if deadline_ms is not None and not deadline_ms > 0:
            raise InputError(f"a deadline is a positive number of milliseconds; received {deadline_ms}")
        self._check(image)
        step: _Step | None = None
        computed: list[Phase] = []
        slowest, begun = 0.0, time.monotonic()
        for latest in self._walk(_Taken(image), ahead=deadline_ms is None):
            if step is None or latest.merged is not step.merged:
                computed = []
            step = latest
            computed += step.phases
            if on_progress is not None:
                on_progress(len(computed), len(step.grid.phases))
            now = time.monotonic()
            # The first also prepares the frame, which makes its time an estimate on the safe side.
            slowest, begun = max(slowest, now - begun), now
            if deadline_ms is not None:
                if self._filling_s is None:
                    self._filled(step, computed)
                assert self._filling_s is not None
                if time.monotonic() - started + slowest + self._filling_s > deadline_ms / 1000:
                    break
        assert step is not None
        if deadline_ms is None:
            return np.ascontiguousarray(step.grid.crop(step.merged))
        return self._filled(step, computed)

    def predict_all(self, images: Iterable[NDArray[np.uint8]]) -> Iterator[NDArray[Any]]:
        """Label frames one after the other; on a device the next one is uploaded while this one is computed.

        Gives and raises what :meth:`predict` does. An image is asked for one ahead of the result that is given; what
        is wrong with it is raised when its own turn comes.
        """
        source = iter(images)
        upcoming: list[_Taken | Exception] = []

        def take_next() -> None:
            if upcoming:
                # A walk that begins anew has taken it already.
                return
            try:
                for image in source:
                    self._check(image)
                    upcoming.append(self._taken(image))
                    return
            except Exception as error:  # noqa: BLE001 - whatever it is, the frame before it is not to blame
                upcoming.append(error)

        take_next()
        try:
            while upcoming:
                taken = upcoming.pop()
                if isinstance(taken, Exception):
                    raise taken
                step: _Step | None = None
                for step in self._walk(taken, ahead=True, on_begun=take_next):  # noqa: B007
                    pass
                assert step is not None
                yield np.ascontiguousarray(step.grid.crop(step.merged))
        finally:
            for left in upcoming:
                if isinstance(left, _Taken):
                    left.close()

    def refine(self, image: NDArray[np.uint8]) -> Iterator[Refinement]:
        """Complete predictions of growing density, one after every sub-batch; the last is :meth:`predict`'s.

        Phases come in a dispersed order, so the pixels computed so far are spread evenly, and the others take
        the prediction of the nearest one. Raises what :meth:`predict` raises. After a reduction it begins anew.
        """
        self._check(image)
        merged, fill = None, NearestFill((1, 1))
        for step in self._walk(_Taken(image), ahead=False):
            if step.merged is not merged:
                merged, fill = step.merged, NearestFill(step.grid.window)
            fill.add(step.phases)
            yield _refinement(step, fill)

    def _walk(self, taken: _Taken, *, ahead: bool, on_begun: Callable[[], None] | None = None) -> Iterator[_Step]:
        """A step after every sub-batch. With ``ahead`` the next ones are under way meanwhile.

        Where the executor is replaced for want of memory, here or in another thread, the walk begins anew.
        ``on_begun`` is called when the first sub-batches are under way.
        """
        while True:
            now = self._executors.current()
            try:
                yield from self._steps(now, taken.frame_on(now), ahead, on_begun)
            except BackendError as error:
                if not self._executors.replaced(now, error):
                    raise
            else:
                return
            finally:
                taken.close()

    def _steps(
        self, now: OpenedExecutor, frame: LoadedFrame, ahead: bool, on_begun: Callable[[], None] | None
    ) -> Iterator[_Step]:
        grid = self._grid(now.schedule)
        merged = self._empty_result(grid)
        left = deque(grid.sub_batches(now.schedule.sub_batch))
        pending: deque[tuple[list[Phase], PendingPhases]] = deque()
        most = now.executor.in_flight if ahead else 1
        while left or pending:
            while left and len(pending) < most:
                pending.append((left[0], frame.submit(left[0])))
                left.popleft()
            if on_begun is not None:
                on_begun()
                on_begun = None
            phases, under_way = pending.popleft()
            predictions = under_way.collect()
            if predictions.shape != (len(phases), *merged.shape[:-2], *grid.phase_size):
                # numpy would spread a smaller result over the phase.
                raise BackendError(f"the trunk gave {predictions.shape} for {len(phases)} phases of {grid.phase_size}")
            grid.place(predictions, phases, merged)
            yield _Step(grid, phases, merged)

    def _filled(self, step: _Step, computed: list[Phase]) -> Refinement:
        """What the computed phases give; how long that takes is remembered for the next deadline."""
        begun = time.monotonic()
        fill = NearestFill(step.grid.window)
        fill.add(computed)
        refinement = _refinement(step, fill)
        self._filling_s = max(self._filling_s or 0.0, time.monotonic() - begun)
        return refinement

    def _taken(self, image: NDArray[np.uint8]) -> _Taken:
        """An image whose frame is loaded ahead of its walk."""
        taken, now = _Taken(image), self._executors.current()
        try:
            taken.frame_on(now)
        except BackendError:
            # The walk loads it again, and says what is wrong or goes on with a smaller schedule.
            taken.close()
        return taken

    def _grid(self, schedule: Schedule) -> PhaseGrid:
        return self.manifest.grid(self.manifest.trunk_of(schedule))

    def close(self) -> None:
        """Give the runtime's memory back, after what is under way; harmless on a closed session."""
        self._executors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, image: Any) -> None:
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            received = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise FrameError(f"a frame is a uint8 array (H, W, 3), RGB; received {received}")
        wanted = self.manifest.input.size
        if image.shape[:2] != wanted:
            (height, width), (have_height, have_width) = wanted, image.shape[:2]
            raise FrameError(
                f"the bundle takes frames of {height}x{width} (height x width); received {have_height}x{have_width}"
            )

    def _empty_result(self, grid: PhaseGrid) -> NDArray[Any]:
        try:
            if self.manifest.outputs is OutputKind.LABELS:
                return np.empty(grid.padded_size, np.uint8)
            return np.empty((len(self.manifest.classes), *grid.padded_size), np.float32)
        except MemoryError as error:
            raise OutOfMemory("the memory does not suffice for the merged result") from error


def _refinement(step: _Step, fill: NearestFill) -> Refinement:
    grid = step.grid
    prediction = np.ascontiguousarray(grid.crop(fill.filled(step.merged)))
    return Refinement(prediction, fill.computed(grid.frame_size), len(fill.done), len(grid.phases))
