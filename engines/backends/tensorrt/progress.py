"""Progress of a build, and the way to stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

OnProgress: TypeAlias = Callable[[int, int], None]
"""Called with ``(percent, 100)``, rising, from any thread."""

_TURN_S = 0.1

_Result = TypeVar("_Result")


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Folds TensorRT's nested phases into one figure.

    A phase of ``n`` steps stands for one step of its parent. TensorRT calls from several threads. Of several ``builds``
    each has an equal share.
    """

    def __init__(self, on_progress: OnProgress | None = None, builds: int = 1) -> None:
        self.failure: BaseException | None = None
        """What ``on_progress`` raised; TensorRT cannot carry an exception through its own code."""
        self._on_progress = on_progress
        self._builds, self._built = builds, 0
        self._phases: dict[str, _Phase] = {}
        self._percent = 0
        self._cancelled = False
        self._lock = threading.Lock()

    def cancel(self) -> None:
        """Stop the build at its next step."""
        self._cancelled = True

    def started(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of ``steps`` steps begins within ``parent``."""
        with self._lock:
            self._phases[name] = _Phase(parent, max(steps, 1))

    def stepped(self, name: str, step: int) -> bool:
        """Step number ``step``, from 0, is done. Gives whether to go on."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done = step + 1
            self._say(int(100 * (self._built + self._fraction(None)) / self._builds))
            return not self._cancelled

    def finished(self, name: str) -> None:
        """A phase has ended."""
        with self._lock:
            self._phases.pop(name, None)

    def built(self) -> None:
        """One of the builds has ended well."""
        with self._lock:
            self._phases.clear()
            self._built += 1

    def complete(self) -> None:
        """All has ended well."""
        with self._lock:
            self._say(100)

    def _fraction(self, parent: str | None) -> float:
        """Of the phases within ``parent``; together they are at most one of its steps."""
        within = [(name, phase) for name, phase in self._phases.items() if phase.parent == parent]
        return min(1.0, sum((phase.done + self._fraction(name)) / phase.steps for name, phase in within))

    def _say(self, percent: int) -> None:
        if percent <= self._percent:
            return
        self._percent = percent
        if self._on_progress is not None and self.failure is None:
            try:
                self._on_progress(percent, 100)
            except BaseException as error:  # noqa: BLE001 - raised again after the build
                self.failure = error
                self._cancelled = True


def trt_monitor(trt: Any, progress: BuildProgress) -> Any:
    """TensorRT's progress monitor that tells ``progress``."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Called by TensorRT."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Called by TensorRT."""
            progress.started(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Called by TensorRT."""
            return progress.stepped(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            """Called by TensorRT."""
            progress.finished(phase_name)

    return Monitor()


def interruptible(work: Callable[[], _Result], progress: BuildProgress) -> _Result:
    """Run a build in a thread of its own, and cancel it when this one is interrupted.

    Python runs signal handlers in the main thread. If that thread were inside TensorRT, an interrupt would strike
    in a callback, where the bindings drop the exception. The first interrupt waits for the step under way; a second
    one does not.
    """
    results: list[_Result] = []
    failures: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="tensorrt-build", daemon=True).start()
    try:
        # A signal that the kernel gives to another thread does not end a wait; its handler runs at the next turn.
        while not ended.wait(_TURN_S):
            pass
    except BaseException:
        progress.cancel()
        ended.wait()
        raise
    if failures:
        raise failures[0]
    return results[0]
