"""One file of weights for all graphs of a bundle, as ONNX external data.

Tensors with the same content are stored once, whatever their names and graphs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:
    from typing_extensions import Self

_ALIGNMENT = 4096
"""Bytes. ONNX asks for page-aligned offsets so that a runtime can map the file."""

_SMALL = 256
"""Bytes. What is smaller stays in its graph: shapes, and constants that a reader of the graph wants to see."""


class SharedWeights:
    """Writes a weights file; a context manager.

    Args:
        path: the file, in the directory that the graphs will lie in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stream = path.open("wb")
        self._known: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def save_graph(self, model: ir.Model, path: Path) -> None:
        """Write ``model`` to ``path``, its large initializers to the weights file. The model keeps its own."""
        held = {value: value.const_value for value in model.graph.initializers.values()}
        for value, tensor in held.items():
            if tensor is not None and tensor.nbytes >= _SMALL:
                value.const_value = self._stored(tensor, str(value.name))
        path.write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        for value, tensor in held.items():
            value.const_value = tensor

    def _stored(self, tensor: ir.TensorProtocol, name: str) -> ir.ExternalTensor:
        content = tensor.tobytes()
        key = hashlib.sha256(content).hexdigest()
        if key not in self._known:
            self._stream.write(b"\0" * (-self._stream.tell() % _ALIGNMENT))
            self._known[key] = (self._stream.tell(), len(content))
            self._stream.write(content)
            # A graph may be read before the file is closed.
            self._stream.flush()
        offset, length = self._known[key]
        return ir.ExternalTensor(
            self._path.name,
            offset,
            length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
            base_dir=self._path.parent,
        )
