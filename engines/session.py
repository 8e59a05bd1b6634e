"""A session: frames in, predictions out, phase by phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from engines.backends import DEFAULT_BACKEND, backend_named
from engines.backends.base import Backend
from engines.bundle.bundle import Bundle
from engines.bundle.manifest import Manifest
from engines.errors import BackendError, FrameError, OutOfMemory
from engines.executors.base import Executor
from engines.executors.reducing import OpenExecutor, ReducingExecutor, Reduction
from engines.executors.turns import Turns
from engines.executors.walking import Frame, Step, Walker
from engines.planning.choice import session_schedule
from engines.planning.clock import Deadline
from engines.planning.sizes import bytes_of_memory
from engines.planning.smaller import hint_of_smaller, smaller_schedules
from engines.schedules.anytime import NearestFill, Refinement
from engines.schedules.phases import Phase, PhaseGrid
from engines.schedules.schedule import Precision, Schedule, named
from engines.trust.bundles import check_trust
from engines.trust.policy import Policy

if TYPE_CHECKING:
    from typing_extensions import Self

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with ``(phases done, phases in all)``."""


class Session:
    """An open bundle on a backend. Close it, or use it as a context manager.

    :meth:`predict` walks the phases of its schedule: it prepares the frame once, computes the phases sub-batch by
    sub-batch, and puts every prediction back at its pixel.

    One prediction is made at a time. Calls of :meth:`predict` from several threads are safe and wait for one another,
    in the order they came. :meth:`refine` and :meth:`predict_all` hold the session from their first step until they
    are exhausted or closed: any other call meanwhile, and one from within ``on_progress``, is an :class:`InputError`
    at once. :meth:`close` may come from any thread at any time: what is at work then raises :class:`BackendError`
    after its sub-batch, and a generator on its next step.
    """

    def __init__(
        self, bundle: Bundle, open_executor: OpenExecutor, schedule: Schedule, smaller: Iterable[Schedule] = ()
    ) -> None:
        """Open ``schedule``, or the first of ``smaller`` that fits; raises what ``open_executor`` does."""
        self.bundle = bundle
        self._executors = ReducingExecutor(open_executor, schedule, smaller)
        self._turns = Turns(self._executors.close)
        self._walker = Walker(self._executors, self._turns.check_open)
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
        trust: Policy | str | Path | None = None,
    ) -> Self:
        """Open a bundle.

        Args:
            bundle: an open bundle, or the path of one, whose files are then verified.
            backend: a name of :data:`engines.backends.BACKENDS`, or a backend.
            precision: arithmetic of the trunk.
            schedule: which levels are walked, how many phases at a time, in which lowering; by default
                :func:`engines.choose_schedule`'s. A sub-batch larger than the phases that can go together is one of
                all of them.
            memory: a budget, ``"1GiB"`` or bytes: what a process that does nothing else may hold on a CPU; on a GPU
                what the session may take there beyond the context and the loaded kernels, which its runtime is held to.
                It chooses the schedule, or must suffice for the one that is named.
            device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; the backend's first by default.
            allow_smaller: when memory runs out, here or in a later call, go on with the next smaller schedule that
                the bundle has a trunk or an engine for; :attr:`reductions` tells.

            trust: a policy, or its file: who must have signed the bundle, and what was added to it on the target. It is
                checked before anything is given to a runtime. By default nobody need have.

        Raises:
            UntrustedBundle: the policy does not name who signed it, or it was changed since.
            BundleError: the bundle is absent, damaged or has no trunk, or no engine, of this schedule and precision.
            InputError: an unknown backend, a device of another kind, a budget that nothing fits, or not the schedule
                that is named.
            MachineError: the runtime is missing or refuses the work.
            OutOfMemory: the memory does not suffice, with what would.
            WorkFailed: engines that run once when they are opened broke then.
        """
        on, arithmetic = backend_named(backend), named(Precision, "precision", precision)
        limit = None if memory is None else bytes_of_memory(memory)

        def session_of(opened: Bundle) -> Any:
            if trust is not None:
                check_trust(opened, trust)
            chosen = session_schedule(opened, on, arithmetic, schedule, memory=memory, device=device)
            smaller = smaller_schedules(opened, on, arithmetic, chosen) if allow_smaller else ()

            def opened_at(wanted: Schedule) -> Executor:
                try:
                    return on.open(opened, arithmetic, wanted, device, memory_bytes=limit)
                except OutOfMemory as error:
                    raise OutOfMemory(f"{error}{hint_of_smaller(opened, on, arithmetic, wanted)}") from error

            return cls(opened, opened_at, chosen, smaller)

        def proven(opened: Bundle) -> Any:
            session = session_of(opened)
            try:
                # Also what it does not use: a bundle is whole, or it is none.
                opened.verify()
            except BaseException:
                session.close()
                raise
            return session

        session: Self = session_of(bundle) if isinstance(bundle, Bundle) else Bundle.read_and(proven, bundle)
        return session

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
        return self.manifest.grid(self.manifest.trunk_of(self.schedule))

    @property
    def reductions(self) -> tuple[Reduction, ...]:
        """What did not fit, and what was tried in its place, in this order."""
        return self._executors.reductions

    @property
    def executor(self) -> Executor:
        """What does the work: its memory and its notes."""
        return self._executors.current

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
                computed; no further one is begun that, as slow as the slowest so far, would end too late. So the
                schedule decides how early there is a result: :func:`engines.choose_schedule` takes a deadline, too.
            on_progress: called with ``(phases done, phases in all)`` after every sub-batch.

        Returns:
            Labels ``(H, W)`` uint8, or ``(classes, H, W)`` float32 for a bundle of logits or probabilities;
            the caller's own array. With a deadline a :class:`~engines.schedules.anytime.Refinement`, which also says
            which pixels were computed, and by how much the deadline was missed.

        Raises:
            FrameError: another dtype, shape or size.
            InputError: a deadline that is no positive number; another call is unfinished on this session.
            BackendError: the runtime failed, or the session is closed.
            OutOfMemory: the memory does not suffice, and no smaller schedule was allowed or fits.
        """
        deadline = None if deadline_ms is None else Deadline(deadline_ms)
        self._check(image)
        executor: Executor | None = None
        computed: list[Phase] = []
        turn = self._turns.turn("predict")
        try:
            turn.take()
            if deadline is not None:
                deadline.begin()
            with closing(self._walker.walk(Frame(image), ahead=deadline is None)) as steps:
                for step in steps:
                    if step.executor is not executor:
                        executor, computed = step.executor, []
                    computed += step.phases
                    if on_progress is not None:
                        with turn.outside():
                            on_progress(len(computed), len(step.grid.phases))
                    if deadline is not None:
                        deadline.step()
                        if step.last or deadline.ends_before_another(self._filling(step, computed)):
                            filled = self._filled(step, computed)
                            return replace(filled, late_ms=deadline.late_ms)
                    elif step.last:
                        return step.result()
            raise AssertionError("a walk ends with its last step")
        finally:
            turn.leave()

    def predict_all(self, images: Iterable[NDArray[np.uint8]]) -> Generator[NDArray[Any], None, None]:
        """Label frames one after the other; on a device the next one is uploaded while this one is computed.

        Gives and raises what :meth:`predict` does, and holds the session until it is exhausted or closed. On a device
        an image is asked for one ahead of the result that is given; what is wrong with it is raised when its own turn
        comes. The same buffer may serve for all of them: an image has been taken when the next one is asked for.
        """
        source = iter(images)
        upcoming: list[Frame | Exception] = []
        asked, exhausted = 0, False
        turn = self._turns.turn("predict_all", unfinished=True)

        def ask() -> None:
            nonlocal asked, exhausted
            if upcoming or exhausted:
                # A walk that begins anew has asked already.
                return
            with turn.outside():
                try:
                    image = next(source)
                    self._check(image)
                    upcoming.append(Frame(self._walker.kept(image), asked))
                except StopIteration:
                    exhausted = True
                except Exception as error:  # noqa: BLE001 - whatever it is, the frame before it is not to blame
                    upcoming.append(error)
            asked += 1

        def ask_ahead() -> None:
            ask()
            if upcoming and isinstance(upcoming[0], Frame):
                with suppress(BackendError):
                    # Its own walk loads it again, and says what is wrong or goes on with a smaller schedule.
                    upcoming[0].load(self.executor)

        def following() -> Frame | None:
            return upcoming[0] if upcoming and isinstance(upcoming[0], Frame) else None

        try:
            turn.take()
            while True:
                ask()
                if not upcoming:
                    return
                frame = upcoming.pop()
                if isinstance(frame, Exception):
                    raise frame
                result = self._whole(frame, ask_ahead if self.executor.slots > 1 else None, following)
                del frame
                with turn.outside():
                    yield result
                # Or it would lie beside the next one.
                del result
        finally:
            turn.leave()

    def refine(self, image: NDArray[np.uint8]) -> Generator[Refinement, None, None]:
        """Complete predictions of growing density, one after every sub-batch; the last is :meth:`predict`'s.

        Phases come in a dispersed order, so the pixels computed so far are spread evenly, and the others take
        the prediction of the nearest one. Raises what :meth:`predict` raises, and holds the session until it is
        exhausted or closed. After a reduction it begins anew.
        """
        self._check(image)
        executor, fill = None, NearestFill((1, 1))
        turn = self._turns.turn("refine", unfinished=True)
        try:
            turn.take()
            with closing(self._walker.walk(Frame(self._walker.kept(image)), ahead=False)) as steps:
                for step in steps:
                    if step.executor is not executor:
                        executor, fill = step.executor, NearestFill(step.grid.window)
                    fill.add(step.phases)
                    refinement = _refinement(step, fill)
                    with turn.outside():
                        yield refinement
        finally:
            turn.leave()

    def _whole(
        self, frame: Frame, on_begun: Callable[[], None] | None, following: Callable[[], Frame | None]
    ) -> NDArray[Any]:
        """The prediction of a frame."""
        with closing(self._walker.walk(frame, ahead=True, on_begun=on_begun, following=following)) as steps:
            return next(step for step in steps if step.last).result()

    def _filled(self, step: Step, computed: list[Phase]) -> Refinement:
        """What the computed phases give; how long that takes is remembered for the next deadline."""
        begun = time.monotonic()
        fill = NearestFill(step.grid.window)
        fill.add(computed)
        refinement = _refinement(step, fill)
        self._filling_s = max(self._filling_s or 0.0, time.monotonic() - begun)
        return refinement

    def _filling(self, step: Step, computed: list[Phase]) -> float:
        """Seconds that filling in what is missing will take; measured where it never was."""
        if self._filling_s is None:
            self._filled(step, computed)
        assert self._filling_s is not None
        return self._filling_s

    def close(self) -> None:
        """Give the runtime's memory back, after the sub-batch at work; harmless on a closed session."""
        self._turns.close()

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


def _refinement(step: Step, fill: NearestFill) -> Refinement:
    grid = step.grid
    prediction = np.ascontiguousarray(grid.unpadded(fill.filled(step.merged())))
    return Refinement(prediction, fill.computed(grid.frame_size), len(fill.done), len(grid.phases))
