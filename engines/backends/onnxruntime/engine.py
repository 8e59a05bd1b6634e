"""Graphs in ONNX Runtime as engines: inputs and outputs at addresses of a device, work on a stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.backends.onnxruntime.sessions import Provider, error_of, import_onnxruntime, open_session, specs_of
from engines.devices.base import DeviceEngine, Execution, Stream, TensorSpec
from engines.errors import BackendError

_DEVICE_TYPES = {Provider.CPU: "cpu", Provider.CUDA: "cuda"}


class OnnxRuntimeEngine(DeviceEngine):
    """A graph on a provider. It manages its own memory, and gives it back when it is closed.

    Args:
        graph: path of the file.
        provider: whose memory the addresses are of.
        provider_options: of the provider; those of CUDA name the device and the stream, which all its work is queued
            on then.
        device_index: which device the addresses are of.

    Raises what :func:`open_session` does.
    """

    def __init__(
        self, graph: Path, provider: Provider, provider_options: Mapping[str, str], device_index: int = 0
    ) -> None:
        self.graph = graph
        self.device = (_DEVICE_TYPES[provider], device_index)
        self.session = open_session(graph, provider, provider_options)
        self.inputs = specs_of(graph, self.session.get_inputs())
        self.outputs = specs_of(graph, self.session.get_outputs())

    def execution(self, shapes: Mapping[str, tuple[int, ...]]) -> Execution:
        return OnnxRuntimeExecution(self, shapes)

    def close(self) -> None:
        self.session = None


class OnnxRuntimeExecution(Execution):
    """A graph at fixed shapes of its inputs, bound to addresses."""

    memory_size = 0

    def __init__(self, owner: OnnxRuntimeEngine, shapes: Mapping[str, tuple[int, ...]]) -> None:
        for spec in owner.inputs:
            if spec.name not in shapes or not spec.admits_shape(shapes[spec.name]):
                raise BackendError(
                    f"the graph {owner.graph} takes {spec.name!r} of {spec.shape}; received {shapes.get(spec.name)}"
                )
        self._owner = owner
        self._shapes = dict(shapes)
        # All that is free in an output is the number of phases, with which every input's first size is free.
        phases = next((shapes[spec.name][0] for spec in owner.inputs if spec.shape[0] is None), None)
        self.outputs = {spec.name: _filled(spec, phases, owner.graph) for spec in owner.outputs}
        self._binding: Any = owner.session.io_binding()
        self._run_options: Any = import_onnxruntime().RunOptions()
        # Its work is queued, like all that is on the stream; who needs the result waits for the stream.
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def bind(self, addresses: Mapping[str, int], memory: int, memory_size: int) -> None:
        owner, binding = self._owner, self._binding
        shapes = {**self._shapes, **self.outputs}
        try:
            for specs, bind in ((owner.inputs, binding.bind_input), (owner.outputs, binding.bind_output)):
                for spec in specs:
                    bind(spec.name, *owner.device, spec.dtype.type, list(shapes[spec.name]), addresses[spec.name])
        except Exception as error:
            # ONNX Runtime's exceptions share no base but Exception.
            raise error_of("does not bind memory to", owner.graph, error) from error

    def enqueue(self, stream: Stream) -> None:
        owner = self._owner
        try:
            owner.session.run_with_iobinding(self._binding, self._run_options)
        except Exception as error:
            # ONNX Runtime's exceptions share no base but Exception.
            raise error_of("failed in", owner.graph, error) from error

    def uncapturable(self, stream: Stream) -> str:
        # After its first run at these shapes its arena has what it needs, and asks the device for nothing.
        return ""

    def close(self) -> None:
        self._binding = None


def _filled(spec: TensorSpec, phases: int | None, graph: Path) -> tuple[int, ...]:
    sizes = (phases if index == 0 and size is None else size for index, size in enumerate(spec.shape))
    known = tuple(size for size in sizes if size is not None)
    if len(known) != len(spec.shape):
        raise BackendError(f"the graph {graph} does not say how large its output {spec.name!r} is: {spec.shape}")
    return known
