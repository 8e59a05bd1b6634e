"""Graphs in ONNX Runtime on the CPU, from arrays to arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.backends.onnxruntime.sessions import error_of, open_session, specs_of
from engines.executors.runner import Array, Runner
from engines.schedules.schedule import Precision


class OnnxRuntimeRunner(Runner):
    """Runs an ONNX file, or the bytes of one, on the CPU.

    Args:
        graph: path of the file, or its content.
        precision: of the network in the graph. An int8 graph runs as it is written, without ONNX Runtime's
            optimizations: its integer kernels saturate on processors without VNNI, and then labels are wrong.
        as_written: run a graph of any precision so.
        arena: see :func:`open_session`, as ``weights``.
        weights: directory of the external data of a graph that is given as bytes.
    """

    def __init__(
        self,
        graph: Path | bytes,
        precision: Precision = Precision.FP32,
        *,
        as_written: bool = False,
        arena: bool = False,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        self._graph = graph
        self._as_written = as_written or precision is Precision.INT8
        self._arena = arena
        self._weights = weights
        self._session: Any = None

    def _activate(self) -> None:
        self._session = open_session(self._graph, as_written=self._as_written, arena=self._arena, weights=self._weights)
        self.inputs = specs_of(self._graph, self._session.get_inputs())
        self.outputs = specs_of(self._graph, self._session.get_outputs())

    def _close(self) -> None:
        self._session = None

    def _infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        try:
            results = self._session.run(names, dict(feed))
        except Exception as error:
            raise error_of("failed in", self._graph, error) from error
        return dict(zip(names, results, strict=True))
