"""What a runner is: one graph in host memory, opened once and run many times. Backends implement it."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engines.devices.base import TensorSpec
from engines.errors import BackendError, LayoutError

if TYPE_CHECKING:
    from typing_extensions import Self

Array = NDArray[np.generic]


class Runner(abc.ABC):
    """Runs one graph. A context manager: outside its ``with`` block it holds neither session nor device memory.

    Subclasses implement :meth:`_activate`, :meth:`_close` and :meth:`_infer`; inputs are checked here, once.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    """Known while the runner is active."""

    def __init__(self) -> None:
        self._active = False

    @abc.abstractmethod
    def _activate(self) -> None:
        """Load the graph and set ``inputs`` and ``outputs``. Raises :class:`BackendError`."""

    @abc.abstractmethod
    def _close(self) -> None:
        """Give everything back."""

    @abc.abstractmethod
    def _infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run once on checked inputs."""

    def __enter__(self) -> Self:
        if not self._active:
            self._activate()
            self._active = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back; harmless on a closed runner."""
        if self._active:
            self._active = False
            self._close()

    def infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. The arrays that come back are the caller's own.

        Raises :class:`LayoutError` for an input of another name, dtype or shape than the graph takes, and
        :class:`BackendError` outside the ``with`` block or when the runtime fails.
        """
        if not self._active:
            raise BackendError("the runner is closed; use it inside its with block")
        expected = {spec.name: spec for spec in self.inputs}
        if feed.keys() != expected.keys():
            raise LayoutError(f"the graph takes the inputs {sorted(expected)}; received {sorted(feed)}")
        for name, spec in expected.items():
            if not spec.admits(feed[name]):
                raise LayoutError(
                    f"the input {name!r} is {spec.dtype} of shape {_shown(spec.shape)}; "
                    f"received {feed[name].dtype} of shape {_shown(feed[name].shape)}"
                )
        return self._infer(feed)


def _shown(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
