"""The backend ``openvino``: OpenVINO on the CPU, in fp32 and, where the processor has it, in bf16.

bf16 is no graph of its own here: OpenVINO computes the fp32 graph in the precision of its hint. The hint is always set,
because by itself OpenVINO takes bf16 wherever the processor has it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from engines.backends.base import Backend, Kind, Support
from engines.backends.failures import failure_of_runtime, imported_runtime
from engines.backends.memory import MIB, MemoryModel
from engines.bundle.bundle import Bundle
from engines.devices.base import TensorSpec
from engines.devices.names import DeviceName
from engines.devices.processor import processor_title
from engines.errors import BackendError
from engines.executors.base import Executor
from engines.executors.host import RunnerExecutor
from engines.executors.runner import Array, Runner
from engines.schedules.schedule import Precision, Schedule

_HINTS = {Precision.FP32: "f32", Precision.BF16: "bf16"}
_OUT_OF_MEMORY = ("bad_alloc", "out of memory", "cannot allocate memory", "could not allocate", "out_of_memory")
"""What OpenVINO and oneDNN say, in lower case."""


class OpenVino(Backend):
    """On x86-64 and ARM CPUs."""

    name = "openvino"
    title = "run on the CPU (OpenVINO)"
    kind = Kind.CPU
    precisions = frozenset(_HINTS)
    extra = "openvino"
    packages = ("openvino",)
    # Fitted on a processor with AVX2: 5% to 43% above what the whole process took, in eight schedules of two networks.
    memory = MemoryModel(
        process_bytes=80 * MIB,
        runtime_bytes=50 * MIB,
        weights=1.8,
        packing=1.3,
        computes_in=((Precision.BF16, Precision.FP32),),
        measured=frozenset({Precision.FP32}),
    )

    def refusal(self, precision: Precision) -> str | None:
        reason = super().refusal(precision)
        if reason is None and precision is not Precision.FP32 and precision.value.upper() not in capabilities():
            held = ", ".join(capabilities())
            reason = f"this processor has no {precision.value} arithmetic for OpenVINO, which finds {held}"
        return reason

    def graph_precision(self, precision: Precision) -> Precision:
        return Precision.FP32

    def device_title(self, device: DeviceName) -> str:
        return processor_title()

    def runtime(self) -> str:
        # Without the number of its build, which differs between packagings of one version.
        return f"openvino {import_openvino().__version__.partition('-')[0]}"

    def _support(self) -> Support:
        return Support(True, f"{self.runtime()}, with {', '.join(capabilities())}")

    def _open(
        self, bundle: Bundle, precision: Precision, schedule: Schedule, device: DeviceName, memory_bytes: int | None
    ) -> Executor:
        trunk = bundle.manifest.trunk_of(schedule)
        with bundle.copies() as file:
            return RunnerExecutor(
                OpenVinoRunner(file(bundle.manifest.prepare)),
                OpenVinoRunner(file(bundle.trunk_graph(trunk, self.graph_precision(precision))), precision),
                bundle.manifest.grid(trunk),
            )


class OpenVinoRunner(Runner):
    """Runs an ONNX file on the CPU.

    Args:
        graph: path of the file.
        precision: what the graph, which is one in fp32, is computed in.
    """

    def __init__(self, graph: Path, precision: Precision = Precision.FP32) -> None:
        super().__init__()
        self._graph = graph
        self._precision = precision
        self._request: Any = None

    def _activate(self) -> None:
        hint = _HINTS[self._precision]
        config = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        try:
            compiled = core().compile_model(str(self._graph), "CPU", config)
            self._request = compiled.create_infer_request()
            used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        except RuntimeError as error:
            raise _error("cannot load", self._graph, error) from error
        if used != hint:
            raise BackendError(f"OpenVINO computes {self._graph} in {used} where {hint} was asked for")
        self.inputs = tuple(_spec(port) for port in compiled.inputs)
        self.outputs = tuple(_spec(port) for port in compiled.outputs)

    def _close(self) -> None:
        self._request = None

    def _infer(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        try:
            results = self._request.infer({name: np.ascontiguousarray(array) for name, array in feed.items()})
        except RuntimeError as error:
            raise _error("failed in", self._graph, error) from error
        return {spec.name: np.array(results[spec.name]) for spec in self.outputs}


def import_openvino() -> Any:
    """The openvino module. Raises :class:`MissingDependency`, :class:`BackendError` where it is there but broken."""
    return imported_runtime("openvino", "openvino")


@functools.cache
def core() -> Any:
    """OpenVINO's entry point, one for the life of the process.

    Its CPU plugin gives the thread that loads it an alternate signal stack, and unmaps that when the last core is gone:
    in whichever thread that happens, so that the next signal would kill the process.
    """
    return import_openvino().Core()


@functools.cache
def capabilities() -> tuple[str, ...]:
    """What OpenVINO says that this processor computes in: ``("FP32", "BF16", "INT8", ...)``."""
    return tuple(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _spec(port: Any) -> TensorSpec:
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), np.dtype(port.get_element_type().to_dtype()), shape)


def _error(what: str, graph: Path, error: Exception) -> BackendError:
    lines = [line for line in str(error).splitlines() if line.strip()]
    said = f"OpenVINO {what} {graph}: {lines[-1].strip() if lines else type(error).__name__}"
    return failure_of_runtime(said, error, _OUT_OF_MEMORY)


OPENVINO = OpenVino()
