"""TensorRT's log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

OnLog: TypeAlias = Callable[[str, str], None]
"""Called with ``(severity, message)``, from any thread; severities are ``ERROR``, ``WARNING``, ``INFO``, ..."""

_ERROR, _WARNING = 1, 2

_OUT_OF_MEMORY = ("out of memory", "outofmemory", "cudaerror 2:", "bad_alloc")
"""In lower case: of CUDA, of TensorRT's allocators, of C++."""

_FIRST: dict[str, Any] = {}
"""By the module's name. TensorRT writes through the first logger of a process for good, so it may never go away."""


class BuildLog:
    """Keeps TensorRT's errors and warnings for messages, and hands every line on."""

    def __init__(self, on_log: OnLog | None = None) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.failure: BaseException | None = None
        """What ``on_log`` raised; TensorRT cannot carry an exception through its own code."""
        self._on_log = on_log

    def add(self, level: int, severity: str, message: str) -> None:
        """Take a line; ``level`` counts from 0, the most severe."""
        if level <= _ERROR:
            self.errors.append(message)
        elif level == _WARNING:
            self.warnings.append(message)
        if self._on_log is not None and self.failure is None:
            try:
                self._on_log(severity, message)
            except BaseException as error:  # noqa: BLE001 - raised again after the build
                self.failure = error

    def clear(self) -> None:
        """Forget the errors so far: the next failure has its own."""
        self.errors.clear()

    def out_of_memory(self) -> bool:
        """Whether the errors say that the memory did not suffice."""
        return any(words in " ".join(self.errors).lower() for words in _OUT_OF_MEMORY)

    def why(self) -> str:
        """The errors so far, as the reason of a failure, with what to do where that is known."""
        text = "; ".join(self.errors) or "it gave no reason"
        if "workspace limit" in text.lower():
            return f"{text} (raise pool_limits= of workspace)"
        if "memory" in text.lower() or "could not find any implementation" in text.lower():
            # TensorRT reports a tactic that did not fit as a missing implementation.
            return f"{text} (the memory of this device does not suffice; choose a smaller sub_batch=)"
        return text


def trt_logger(trt: Any, log: BuildLog) -> Any:
    """TensorRT's logger that writes to ``log``."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Called by TensorRT."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT."""
            log.add(int(severity), severity.name, message)

    logger = Logger()
    _FIRST.setdefault(trt.__name__, logger)
    return logger
