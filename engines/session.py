"""A session: frames in, predictions out, phase by phase."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from engines.anytime import NearestFill, Refinement
from engines.backends import Runner, runner_from_graph
from engines.bundle import Bundle
from engines.errors import BackendError, FrameError, InputError
from engines.manifest import Manifest, OutputKind, Precision
from engines.phases import Phase, PhaseGrid
from engines.schedules import Schedule, default_schedule, resolved_schedule

if TYPE_CHECKING:
    from typing_extensions import Self

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with ``(phases done, phases in all)``."""


class Session:
    """An open bundle on a backend. Close it, or use it as a context manager.

    :meth:`predict` walks the phases of its schedule: it normalises the frame once, cuts windows for the phases of
    a sub-batch, runs the trunk on them, and puts every prediction back at its pixel. Calls from several threads are
    safe: they take turns, sub-batch by sub-batch.
    """

    def __init__(self, bundle: Bundle, prepare: Runner, trunk: Runner, schedule: Schedule) -> None:
        self.bundle = bundle
        self.schedule = schedule
        self._grid = bundle.manifest.grid(bundle.manifest.trunk(schedule.levels, schedule.lowering))
        self._sub_batches = self._grid.sub_batches(schedule.sub_batch)
        self._lock = threading.Lock()
        with ExitStack() as opening:
            self._prepare = opening.enter_context(prepare)
            self._trunk = opening.enter_context(trunk)
            # Both are open: from here on close() ends them.
            self._runners = opening.pop_all()
        self._closed = False

    @classmethod
    def open(
        cls,
        bundle: Bundle | str | Path,
        backend: str = "onnxruntime",
        *,
        precision: Precision = Precision.FP32,
        schedule: Schedule | None = None,
    ) -> Self:
        """Open a bundle.

        Args:
            bundle: an open bundle, or the path of one, whose files are then verified.
            backend: a name of :data:`engines.backends.BACKENDS`.
            precision: arithmetic of the trunk.
            schedule: which levels are walked, how many phases at a time, in which lowering; by default
                :func:`engines.schedules.default_schedule`. A sub-batch larger than the phases that can go
                together is one of all of them.

        Raises:
            BundleError: the bundle is absent, damaged or has no trunk of this schedule and precision.
            InputError: an unknown backend.
            MachineError: the runtime is missing or refuses the work.
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle)
        manifest = bundle.manifest
        wanted = schedule or default_schedule(manifest)
        resolved = resolved_schedule(manifest, wanted.levels, wanted.sub_batch, wanted.lowering)
        prepare = runner_from_graph(bundle.file(manifest.prepare), backend)
        graph = bundle.trunk_graph(manifest.trunk(resolved.levels, resolved.lowering), precision)
        return cls(bundle, prepare, runner_from_graph(graph, backend, precision), resolved)

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self.bundle.manifest

    @property
    def grid(self) -> PhaseGrid:
        """The phases that :meth:`predict` walks."""
        return self._grid

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
            the caller's own array. With a deadline a :class:`~engines.anytime.Refinement`, which also says
            which pixels were computed.

        Raises:
            FrameError: another dtype, shape or size.
            InputError: a deadline that is no positive number.
            BackendError: the runtime failed, or the session is closed.
        """
        started = time.monotonic()
        if deadline_ms is not None and not deadline_ms > 0:
            raise InputError(f"a deadline is a positive number of milliseconds; received {deadline_ms}")
        computed: list[Phase] = []
        slowest, begun = 0.0, time.monotonic()
        merged: NDArray[Any] | None = None
        for phases, merged in self._walk(image):  # noqa: B007 - the last one is the result
            computed += phases
            if on_progress is not None:
                on_progress(len(computed), len(self._grid.phases))
            now = time.monotonic()
            # The first also prepares the frame, which makes its time an estimate on the safe side.
            slowest, begun = max(slowest, now - begun), now
            if deadline_ms is not None and now - started + slowest > deadline_ms / 1000:
                break
        assert merged is not None
        if deadline_ms is None:
            return np.ascontiguousarray(self._grid.crop(merged))
        fill = NearestFill(self._grid.window)
        fill.add(computed)
        return self._refinement(merged, fill)

    def refine(self, image: NDArray[np.uint8]) -> Iterator[Refinement]:
        """Complete predictions of growing density, one after every sub-batch; the last is :meth:`predict`'s.

        Phases come in a dispersed order, so the pixels computed so far are spread evenly, and the others take
        the prediction of the nearest one. Raises what :meth:`predict` raises.
        """
        fill = NearestFill(self._grid.window)
        for phases, merged in self._walk(image):
            fill.add(phases)
            yield self._refinement(merged, fill)

    def _walk(self, image: NDArray[np.uint8]) -> Iterator[tuple[list[Phase], NDArray[Any]]]:
        """The phases of each sub-batch and the padded result so far, after every sub-batch."""
        self._check(image)
        grid = self._grid
        planes: Any = self._infer(self._prepare, {"frame": np.ascontiguousarray(image)})["planes"]
        merged = self._empty_result()
        for phases in self._sub_batches:
            feed: dict[str, NDArray[Any]] = {"windows": grid.cut(planes, phases)}
            if grid.inner_windows:
                feed["offsets"] = grid.inner_offsets(phases)
            (predictions,) = self._infer(self._trunk, feed).values()
            if predictions.shape != (len(phases), *merged.shape[:-2], *grid.phase_size):
                # numpy would spread a smaller result over the phase.
                raise BackendError(f"the trunk gave {predictions.shape} for {len(phases)} phases of {grid.phase_size}")
            grid.place(predictions, phases, merged)
            yield phases, merged

    def _infer(self, runner: Runner, feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with self._lock:
            if self._closed:
                raise BackendError("the session is closed")
            return runner.infer(feed)

    def _refinement(self, merged: NDArray[Any], fill: NearestFill) -> Refinement:
        grid = self._grid
        prediction = np.ascontiguousarray(grid.crop(fill.filled(merged)))
        return Refinement(prediction, fill.computed(grid.frame_size), len(fill.done), len(grid.phases))

    def close(self) -> None:
        """Give the runtime's memory back; harmless on a closed session."""
        with self._lock:
            self._closed = True
            self._runners.close()

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
        if image.shape[:2] != self._grid.frame_size:
            (height, width), (have_height, have_width) = self._grid.frame_size, image.shape[:2]
            raise FrameError(
                f"the bundle takes frames of {height}x{width} (height x width); received {have_height}x{have_width}"
            )

    def _empty_result(self) -> NDArray[Any]:
        if self.manifest.outputs is OutputKind.LABELS:
            return np.empty(self._grid.padded_size, np.uint8)
        return np.empty((len(self.manifest.classes), *self._grid.padded_size), np.float32)
