"""Walking frames: the default trunk in every precision that runs here, phase by phase.

The first frame is walked whole, and so is every labelled one; the others at a quarter of the phases, spread evenly from
the one that PyTorch computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from converters.verification.probes import planes_of
from converters.verification.runs import Ran, Results, attempted, logits_of, opened_run, ran
from converters.verification.samples import Sampled
from converters.verification.subject import Frame, Subject, runnable
from engines.errors import BackendError
from engines.parity.comparison import phases_at
from engines.schedules.phases import Phase, PhaseGrid
from engines.schedules.schedule import Precision

_SHARE = 4
"""Of the phases of every frame but the first, one in so many."""


@dataclass(frozen=True, eq=False)
class WalkedFrame:
    """What the default trunk gave for phases of one frame."""

    frame: Frame
    grid: PhaseGrid
    ran: dict[Precision, Ran]
    """fp32 first; every precision at the same phases."""
    planes: NDArray[np.float32] | BackendError
    """What the frame was prepared to."""
    feed: dict[str, NDArray[np.generic]]
    """Inputs of the trunk for the first of the phases; empty where the frame could not be prepared."""
    counts: bool
    """Whether its labels are compared: those of the frames that are judged, and of the first for the pictures."""

    @property
    def results(self) -> dict[Precision, Results]:
        """Of the precisions that nothing ended."""
        return {precision: found for precision, found in self.ran.items() if not isinstance(found, BackendError)}

    @property
    def broken(self) -> dict[Precision, BackendError]:
        """What ended the others."""
        return {precision: error for precision, error in self.ran.items() if isinstance(error, BackendError)}

    @property
    def exact(self) -> Ran:
        """In fp32."""
        return self.ran[Precision.FP32]

    @property
    def outputs(self) -> dict[Precision, NDArray[np.generic]]:
        """What the trunk gave for :attr:`feed`, a batch of one."""
        return {precision: next(iter(results.values())).output[None] for precision, results in self.results.items()}

    def sampled(self, phases: list[Phase]) -> Sampled | None:
        """Some of the phases, to be computed in another way as well; ``None`` where the frame could not be prepared."""
        if isinstance(self.planes, BackendError):
            return None
        alone = {}
        for precision, results in self.results.items():
            logits = logits_of({phase: results[phase] for phase in phases})
            if len(logits) == len(phases):
                alone[precision] = [logits[phase] for phase in phases]
        return Sampled(self.planes, phases, alone)

    @property
    def has_logits(self) -> bool:
        """Whether fp32 ran, and all split batches could be put in place."""
        if Precision.FP32 in self.broken:
            return False
        return all(result.logits is not None for results in self.results.values() for result in results.values())


def walked_frames(subject: Subject) -> Iterator[WalkedFrame]:
    """Frame after frame; only the last one is held. The trunk's sessions are closed behind the last."""
    bundle = subject.bundle
    trunk = bundle.manifest.trunk()
    with ExitStack() as opening:
        runs = {
            precision: opened_run(opening, bundle, trunk, precision, measured=True) for precision in runnable(trunk)
        }
        grid = bundle.manifest.grid(trunk)
        for index, frame in enumerate(subject.frames):
            planes = attempted(partial(planes_of, bundle, frame.image))
            phases = _phases(subject, grid, frame, whole=index == 0 or frame.truth is not None)
            yield WalkedFrame(
                frame,
                grid,
                {precision: ran(run, planes, phases) for precision, run in runs.items()},
                planes,
                {} if isinstance(planes, BackendError) else grid.feed(planes, phases[:1]),
                index == 0 or any(frame is judged for judged in subject.judged),
            )


def _phases(subject: Subject, grid: PhaseGrid, frame: Frame, *, whole: bool) -> list[Phase]:
    walked = [phases[0] for phases in grid.sub_batches(1)]
    if whole:
        return walked
    needed = [(0, 0)]
    if frame.case is not None:
        needed = phases_at(grid.window, frame.case.phase, frame.case.window)
    elif subject.network is not None:
        # PyTorch is run anew at a phase like the first case's: one that both have is enough.
        case = subject.bundle.manifest.reference[0]
        needed = phases_at(grid.window, case.phase, case.window)[:1]
    # The walk may begin anywhere, so it begins with what is needed.
    (row, column), (h, w) = needed[0], grid.window
    spread = [((row + r) % h, (column + c) % w) for r, c in walked[: -(-len(walked) // _SHARE)]]
    return list(dict.fromkeys((*spread, *needed)))
