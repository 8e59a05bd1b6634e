"""A session: frames in, predictions out, phase by phase."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engines.backends import Runner, runner_from_graph
from engines.bundle import Bundle
from engines.errors import BackendError, FrameError, LayoutError
from engines.manifest import Manifest, OutputKind, Precision
from engines.phases import PhaseGrid

if TYPE_CHECKING:
    from typing_extensions import Self


class Session:
    """An open bundle on a backend. Close it, or use it as a context manager.

    :meth:`predict` walks the phases of the bundle's grid: it normalises the frame once, cuts a window for each
    phase, runs the trunk on ``sub_batch`` windows at a time, and puts every prediction back at its pixel. Calls
    from several threads are safe and take turns.
    """

    def __init__(self, bundle: Bundle, prepare: Runner, trunk: Runner, sub_batch: int) -> None:
        self.bundle = bundle
        self.sub_batch = sub_batch
        self._grid = bundle.manifest.grid
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
        sub_batch: int = 1,
    ) -> Self:
        """Open a bundle.

        Args:
            bundle: an open bundle, or the path of one, whose files are then verified.
            backend: a name of :data:`engines.backends.BACKENDS`.
            precision: which of the bundle's trunks to run.
            sub_batch: phases at a time; more take more memory.

        Raises:
            BundleError: the bundle is absent, damaged or has no trunk of this precision.
            InputError: an unknown backend, or a ``sub_batch`` below 1.
            MachineError: the runtime is missing or refuses the work.
        """
        if sub_batch < 1:
            raise LayoutError(f"a sub-batch holds at least one phase; received {sub_batch}")
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle)
        prepare = runner_from_graph(bundle.file(bundle.manifest.prepare), backend)
        trunk = runner_from_graph(bundle.trunk_graph(precision), backend)
        return cls(bundle, prepare, trunk, min(sub_batch, len(bundle.manifest.grid.phases)))

    @property
    def manifest(self) -> Manifest:
        """The manifest of the bundle."""
        return self.bundle.manifest

    @property
    def grid(self) -> PhaseGrid:
        """The phases that :meth:`predict` walks."""
        return self._grid

    def predict(
        self, image: NDArray[np.uint8], *, on_progress: Callable[[int, int], None] | None = None
    ) -> NDArray[Any]:
        """Label one frame.

        Args:
            image: ``(H, W, 3)`` uint8 RGB in [0, 255], of the bundle's size.
            on_progress: called with ``(phases done, phases in all)`` after every sub-batch.

        Returns:
            Labels ``(H, W)`` uint8, or ``(classes, H, W)`` float32 for a bundle of logits or probabilities;
            the caller's own array.

        Raises:
            FrameError: another dtype, shape or size.
            BackendError: the runtime failed, or the session is closed.
        """
        self._check(image)
        grid = self._grid
        with self._lock:
            if self._closed:
                raise BackendError("the session is closed")
            planes: Any = self._prepare.infer({"frame": np.ascontiguousarray(image)})["planes"]
            merged = self._empty_result()
            done = 0
            for phases in grid.sub_batches(self.sub_batch):
                (predictions,) = self._trunk.infer({"windows": grid.cut(planes, phases)}).values()
                if predictions.shape != (len(phases), *merged.shape[:-2], *grid.phase_size):
                    # numpy would spread a smaller result over the phase.
                    raise BackendError(
                        f"the trunk gave {predictions.shape} for {len(phases)} phases of {grid.phase_size}"
                    )
                grid.place(predictions, phases, merged)
                done += len(phases)
                if on_progress is not None:
                    on_progress(done, len(grid.phases))
        return np.ascontiguousarray(grid.crop(merged))

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
